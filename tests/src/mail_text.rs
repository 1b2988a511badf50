//! A message as a test reads it: its bytes, and its headers by name.

/// A message's bytes.
#[derive(Debug, Clone)]
pub struct MailText {
    bytes: Vec<u8>,
}

impl MailText {
    /// A message of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The bytes as they were stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).replace("\r\n", "\n")
    }

    /// The first header of this name, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).into_iter().next()
    }

    /// All headers of this name, unfolded, from the top.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let head = text.split("\n\n").next().unwrap_or_default();
        let unfolded = head.replace("\n\t", " ").replace("\n ", " ");
        unfolded
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_unfolded_and_found_by_any_case() {
        let mail = MailText::new(
            b"Subject: a\r\n b\r\nDKIM-Signature: 1\r\ndkim-signature: 2\r\n\r\nSubject: body"
                .to_vec(),
        );
        assert_eq!(mail.header("subject").as_deref(), Some("a b"));
        assert_eq!(mail.headers("DKIM-Signature"), ["1", "2"]);
        assert_eq!(mail.header("From"), None);
    }
}
