//! Texts and failures as bytes, between the engine and the process that reads for it. What is unpacked may be anything.
#![forbid(unsafe_code)]

use crate::report::code;
use crate::text::shorten;
use crate::types::{Code, Details, Failure};

/// A length that stands for no text.
const NONE: u32 = u32::MAX;
/// Characters of a failure's texts.
const SHOWN: usize = 2000;

/// Puts texts behind one another.
#[derive(Debug, Default)]
pub struct Packer(Vec<u8>);

impl Packer {
    /// Adds a text, or that there is none.
    pub fn text(&mut self, text: Option<&str>) {
        match text {
            // No reader has so much memory.
            Some(text) => {
                let length = u32::try_from(text.len()).unwrap_or(NONE);
                self.0.extend_from_slice(&length.to_le_bytes());
                self.0.extend_from_slice(text.as_bytes());
            }
            None => self.0.extend_from_slice(&NONE.to_le_bytes()),
        }
    }

    /// Adds a failure.
    pub fn failure(&mut self, failure: &Failure) {
        self.text(Some(code::name(failure.code)));
        self.text(Some(&failure.message));
        let number = |number: &dyn ToString| number.to_string();
        let (kind, texts) = match &failure.details {
            Details::MaxBytes(bytes) => ("max_bytes", vec![number(bytes)]),
            Details::Json { line, column } => ("json", vec![number(line), number(column)]),
            Details::Mismatch { instance_path, schema_path, value } => {
                ("mismatch", vec![instance_path.clone(), schema_path.clone(), value.clone()])
            }
            Details::File { path, place: None } => ("file", vec![path.clone()]),
            // No failure of reading has others.
            _ => ("none", Vec::new()),
        };
        self.text(Some(kind));
        texts.iter().for_each(|text| self.text(Some(text)));
    }

    /// All of it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Takes texts out again.
#[derive(Debug)]
pub struct Unpacker<'a>(&'a [u8]);

impl<'a> Unpacker<'a> {
    /// Of what a [`Packer`] should have made.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Unpacker(bytes)
    }

    /// The next text.
    ///
    /// # Errors
    /// There is none, or it is not UTF-8.
    pub fn text(&mut self) -> Result<Option<String>, Failure> {
        let (length, rest) = self.0.split_first_chunk::<4>().ok_or_else(torn)?;
        let length = u32::from_le_bytes(*length);
        self.0 = rest;
        if length == NONE {
            return Ok(None);
        }
        let (text, rest) = rest.split_at_checked(length as usize).ok_or_else(torn)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map(Some).map_err(|_| torn())
    }

    /// The next text, which must be there.
    ///
    /// # Errors
    /// As [`Unpacker::text`].
    pub fn some(&mut self) -> Result<String, Failure> {
        self.text()?.ok_or_else(torn)
    }

    /// A failure of those that reading can have; its texts are made fit for a message.
    ///
    /// # Errors
    /// It is none.
    pub fn failure(&mut self) -> Result<Failure, Failure> {
        let named = self.some()?;
        let allowed = [Code::Usage, Code::ArgumentsInvalid, Code::ConfigInvalid];
        let code = allowed.into_iter().find(|one| code::name(*one) == named).ok_or_else(torn)?;
        let message = shorten(&self.some()?, SHOWN);
        let kind = self.some()?;
        let mut text = || -> Result<String, Failure> { Ok(shorten(&self.some()?, SHOWN)) };
        let details = match kind.as_str() {
            "max_bytes" => Details::MaxBytes(number(&text()?)?),
            "json" => Details::Json { line: number(&text()?)?, column: number(&text()?)? },
            "mismatch" => Details::Mismatch { instance_path: text()?, schema_path: text()?, value: text()? },
            "file" => Details::File { path: text()?, place: None },
            "none" => Details::None,
            _ => return Err(torn()),
        };
        Ok(Failure::new(code, message).with(details))
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(torn()) }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| torn())
}

/// What the reader answers with is not what it should be.
#[must_use]
pub fn torn() -> Failure {
    Failure::new(Code::Internal, "the process that reads the arguments answered with what it should not")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_packed_comes_out() {
        for details in [
            Details::None,
            Details::MaxBytes(u64::MAX),
            Details::Json { line: 7, column: 0 },
            Details::Mismatch { instance_path: "/args/0".into(), schema_path: "m.json#/".into(), value: "7".into() },
            Details::File { path: "/s/m.json".into(), place: None },
        ] {
            let failure = Failure::new(Code::ArgumentsInvalid, "bad\u{1b}[2J").with(details);
            let mut packer = Packer::default();
            packer.text(Some("é\n"));
            packer.text(None);
            packer.failure(&failure);
            let bytes = packer.into_bytes();
            let mut unpacker = Unpacker::new(&bytes);
            assert_eq!((unpacker.some().unwrap(), unpacker.text().unwrap()), ("é\n".to_owned(), None));
            let read = unpacker.failure().unwrap();
            unpacker.end().unwrap();
            assert_eq!((read.code, &read.details), (failure.code, &failure.details));
            assert_eq!(read.message, "bad\\x1b[2J", "nothing of it reaches a terminal");
        }
    }

    #[test]
    fn details_are_bounded_and_of_their_kind() {
        let read = |texts: &[&str]| {
            let mut packer = Packer::default();
            ["arguments_invalid", "x"].iter().chain(texts).for_each(|text| packer.text(Some(text)));
            Unpacker::new(&packer.into_bytes()).failure().map(|failure| failure.details)
        };
        let long = "\u{1b}".repeat(5000);
        let Ok(Details::File { path, .. }) = read(&["file", &long]) else { panic!("a file") };
        assert!(path.chars().count() <= 10 * SHOWN + 1 && !path.contains('\u{1b}'));
        for wrong in [&["json", "1", "x"][..], &["json", "1"], &["max_bytes", "-1"], &["step"], &[]] {
            assert!(read(wrong).unwrap_err().message.contains("should not"), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_failures_of_reading() {
        for code in [Code::Internal, Code::Cancelled, Code::CallerNotAllowed] {
            let mut packer = Packer::default();
            packer.failure(&Failure::new(code, "x"));
            assert!(Unpacker::new(&packer.into_bytes()).failure().unwrap_err().message.contains("should not"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut unpacker = Unpacker::new(&bytes);
            while unpacker.text().is_ok() {}
            let _ = Unpacker::new(&bytes).failure();
        }
    }
}
