//! The body of an HTTP response, in a buffer that is used again: memory that was allocated and cleared once serves any
//! number of bodies, one after the other.

/// The size of the steps in which the buffer is cleared. Most bodies are about as long as the one before them, so a larger
/// step would clear memory that no body uses.
const CLEARED_STEP_BYTES: usize = 16 * 1024;

/// A body and the buffer that it is in.
#[derive(Debug, Default)]
pub struct Body {
    /// The body, followed by cleared bytes or those of an earlier body. Its capacity can be larger than its length.
    buffer: Vec<u8>,
    length: usize,
}

impl Body {
    /// Returns an empty body that is read into this buffer, whose contents do not matter.
    pub fn new(buffer: Vec<u8>) -> Self {
        Self { buffer, length: 0 }
    }

    /// Returns the body.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Returns the number of bytes of the body.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the number of bytes that the body can have without more memory.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Allocates memory for this many more bytes.
    pub fn grow(&mut self, bytes: usize) {
        if self.buffer.capacity() == 0 {
            // The system clears a page when it is first written to: a short body then costs one page, not all of them.
            self.buffer = vec![0; bytes];
        } else {
            self.buffer.reserve_exact(self.buffer.capacity() - self.buffer.len() + bytes);
        }
    }

    /// Appends what `read` writes to the start of the slice that it gets. The slice is empty only if the buffer is full.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn fill<Error>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        if self.length == self.buffer.len() {
            self.buffer.resize(self.buffer.capacity().min(self.length + CLEARED_STEP_BYTES), 0);
        }
        let filled = read(&mut self.buffer[self.length..])?;
        self.length += filled;
        assert!(
            self.length <= self.buffer.len(),
            "a reader reports no more bytes than it was given room for"
        );
        Ok(filled)
    }

    /// Returns the body as a text, in the same buffer.
    ///
    /// # Errors
    ///
    /// The body is not UTF-8. Returns the number of bytes before the first that is not, and the body unchanged.
    pub fn into_text(self) -> Result<String, (usize, Self)> {
        String::from_utf8(self.into_bytes()).map_err(|error| {
            let valid_up_to = error.utf8_error().valid_up_to();
            (valid_up_to, Self::from(error.into_bytes()))
        })
    }

    /// Returns the bytes of the body, in the same buffer.
    pub fn into_bytes(self) -> Vec<u8> {
        let Self { mut buffer, length } = self;
        buffer.truncate(length);
        buffer
    }
}

impl From<Vec<u8>> for Body {
    fn from(buffer: Vec<u8>) -> Self {
        Self { length: buffer.len(), buffer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &mut Body, text: &[u8]) {
        let mut rest = text;
        while !rest.is_empty() {
            if body.len() == body.capacity() {
                body.grow(4);
            }
            let read = body.fill(|into| {
                let length = into.len().min(rest.len());
                into[..length].copy_from_slice(&rest[..length]);
                Ok::<_, ()>(length)
            });
            rest = &rest[read.expect("bytes in memory")..];
        }
    }

    #[test]
    fn reuses_a_buffer_for_bodies_of_any_length() {
        let mut buffer = Vec::new();
        for text in ["first body", "2nd", "", "a third body, the longest"] {
            let mut body = Body::new(buffer);
            read(&mut body, text.as_bytes());
            assert_eq!(body.bytes(), text.as_bytes());
            let read = body.into_text().expect("UTF-8");
            assert_eq!(read, text);
            buffer = read.into_bytes();
        }
    }

    #[test]
    fn returns_a_body_that_is_not_text_unchanged() {
        let (valid_up_to, body) = Body::from(b"ab\xffc".to_vec()).into_text().expect_err("not UTF-8");
        assert_eq!((valid_up_to, body.bytes()), (2, b"ab\xffc".as_slice()));
    }
}
