//! Pictures of a terminal for the documentation, in SVG. They contain the text, and no fonts, scripts or links.
//!
//! The background is dark, so that a picture can be read on a light and on a dark page.
//! `white-space` keeps the spaces in browsers, and `xml:space` in viewers of SVG 1.1.

use std::{env, fmt::Write, fs};

use super::documents::repository;

// The colours of lines.
pub const PROMPT: &str = "#8ab4f8";
pub const HEADING: &str = "#fdd663";
pub const PLAIN: &str = "#e8eaed";
pub const DIM: &str = "#9aa0a6";
pub const GOOD: &str = "#81c995";
pub const BAD: &str = "#f6aea9";

const LETTER_WIDTH: usize = 8;
const LINE_HEIGHT: usize = 20;

/// Draws a terminal that shows these lines, each with its colour.
pub fn draw(title: &str, lines: &[(&str, &str)]) -> String {
    let letters = lines.iter().map(|(_, line)| line.chars().count()).max().unwrap_or_default();
    let (width, height) = (letters * LETTER_WIDTH + 40, lines.len() * LINE_HEIGHT + 36);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>{title}</title>\n\
         <style>text {{ white-space: pre }}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16191d\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"13\" \
         xml:space=\"preserve\">\n"
    );
    for (number, (colour, text)) in lines.iter().enumerate().filter(|(_, (_, text))| !text.is_empty()) {
        let length = text.chars().count() * LETTER_WIDTH;
        let y = number * LINE_HEIGHT + 32;
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            picture,
            "<text x=\"20\" y=\"{y}\" fill=\"{colour}\" textLength=\"{length}\" lengthAdjust=\"spacingAndGlyphs\">{text}</text>"
        );
    }
    picture + "</g>\n</svg>\n"
}

/// Returns the lines that a picture shows, without empty ones.
pub fn lines_of(picture: &str) -> Vec<String> {
    let texts = picture.lines().filter_map(|line| line.strip_suffix("</text>")?.split_once('>'));
    let unescaped = |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    texts.map(|(_, text)| unescaped(text)).collect()
}

/// Returns whether `DRAW` is set, which requests new pictures.
pub fn is_requested() -> bool {
    env::var_os("DRAW").is_some()
}

/// Replaces a picture of the documentation.
pub fn replace(name: &str, picture: &str) {
    fs::write(repository(name), picture).expect("a writable folder");
}
