//! Answers of the API and the login endpoint that are not as documented.
