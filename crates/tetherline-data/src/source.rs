//! From bytes to records, one at a time.
//!
//! A data file is JSON lines or one JSON array, plain or gzipped. Both are told from their first bytes,
//! never from the file's name. A record is handed out as the raw bytes of one line or of one array
//! element, so a file of any size is read in the memory of its longest record, and one bad record does
//! not spoil the next.

use crate::DataError;
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// One row as raw bytes.
#[derive(Debug)]
pub(crate) struct Record {
    /// Line on which it starts, 1-based.
    pub(crate) line: usize,
    /// In an array: which element, from 1.
    pub(crate) element: Option<usize>,
    /// The bytes, without surrounding white space. Never empty in JSON lines; empty in an array where
    /// an element is missing (`[1,,2]`).
    pub(crate) bytes: Vec<u8>,
}

/// Records of a file in order.
pub(crate) struct Records<'a> {
    name: String,
    reader: Box<dyn BufRead + 'a>,
    /// Line that the next byte is on.
    line: usize,
    gzipped: bool,
    /// `None`: JSON lines. `Some(n)`: a JSON array, `n` elements handed out.
    elements: Option<usize>,
    done: bool,
}

/// Whole-file formats that people try first, by their first bytes.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"PAR1", "this is a Parquet file"),
    (b"PK\x03\x04", "this is a zip archive"),
    (b"\x28\xb5\x2f\xfd", "this is compressed with zstd"),
    (b"\xff\xfe", "this is UTF-16 text"),
    (b"\xfe\xff", "this is UTF-16 text"),
];

impl<'a> Records<'a> {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let name = path.display().to_string();
        let opened = std::fs::File::open(path).and_then(|file| {
            // On Unix a directory opens; reading it fails with a worse message.
            if file.metadata()?.is_dir() {
                return Err(io::Error::other("it is a directory, expected a file"));
            }
            Ok(file)
        });
        match opened {
            Ok(file) => Self::new(name, file),
            Err(source) => Err(DataError::Open { file: name, source }),
        }
    }

    /// Reads from anything; `name` stands for the file in errors.
    pub(crate) fn new(name: String, reader: impl Read + 'a) -> Result<Self, DataError> {
        let read_error = |source| DataError::Read { file: name.clone(), line: 1, source };
        let (head, rest) = peek(Box::new(reader)).map_err(read_error)?;
        let gzipped = head.starts_with(&[0x1f, 0x8b]);
        let inner: Box<dyn Read + 'a> =
            if gzipped { Box::new(MultiGzDecoder::new(BufReader::new(rest))) } else { rest };
        let (head, rest) = peek(inner).map_err(read_error)?;
        if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(DataError::Format {
                file: name,
                line: 1,
                problem: format!("{what}; expected JSON lines or a JSON array in UTF-8, plain or gzipped"),
            });
        }
        let mut reader: Box<dyn BufRead + 'a> = Box::new(BufReader::new(rest));
        if head.starts_with(b"\xef\xbb\xbf") {
            reader.read_exact(&mut [0; 3]).map_err(read_error)?;
        }
        let mut this = Self { name, reader, line: 1, gzipped, elements: None, done: false };
        if this.skip_white()? == Some(b'[') {
            this.reader.consume(1);
            this.elements = Some(0);
        }
        Ok(this)
    }

    /// The file's name, as errors show it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the bytes were gzipped.
    pub(crate) fn gzipped(&self) -> bool {
        self.gzipped
    }

    /// Whether the file is one JSON array.
    pub(crate) fn is_array(&self) -> bool {
        self.elements.is_some()
    }

    fn read_error(&self, source: io::Error) -> DataError {
        DataError::Read { file: self.name.clone(), line: self.line, source }
    }

    fn broken(&self, line: usize, problem: impl Into<String>) -> DataError {
        DataError::Format { file: self.name.clone(), line, problem: problem.into() }
    }

    /// The next byte that is not white space, without taking it.
    fn skip_white(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let byte = match self.reader.fill_buf() {
                Ok(buf) => buf.first().copied(),
                Err(source) => return Err(self.read_error(source)),
            };
            match byte {
                Some(b) if b.is_ascii_whitespace() => {
                    self.line += usize::from(b == b'\n');
                    self.reader.consume(1);
                }
                other => return Ok(other),
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Record>, DataError> {
        if self.skip_white()?.is_none() {
            return Ok(None);
        }
        let line = self.line;
        let mut bytes = Vec::new();
        if let Err(source) = self.reader.read_until(b'\n', &mut bytes) {
            return Err(self.read_error(source));
        }
        self.line += usize::from(bytes.ends_with(b"\n"));
        bytes.truncate(bytes.trim_ascii_end().len());
        Ok(Some(Record { line, element: None, bytes }))
    }

    /// The next element, cut at the first comma or bracket outside strings and inner brackets.
    fn next_element(&mut self, index: usize) -> Result<Option<Record>, DataError> {
        self.skip_white()?;
        let start = self.line;
        let mut bytes = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        let end = loop {
            let buf = match self.reader.fill_buf() {
                Ok(buf) => buf,
                Err(source) => {
                    return Err(DataError::Read { file: self.name.clone(), line: self.line, source });
                }
            };
            if buf.is_empty() {
                let problem =
                    format!("the array never ends: the file stops in element {index}, expected `]`");
                return Err(self.broken(start, problem));
            }
            let (mut used, mut end) = (0, None);
            for &b in buf {
                used += 1;
                self.line += usize::from(b == b'\n');
                if in_string {
                    in_string = escaped || b != b'"';
                    escaped = !escaped && b == b'\\';
                } else {
                    match b {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b',' | b']' if depth == 0 => {
                            end = Some(b);
                            break;
                        }
                        b'}' | b']' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                }
                bytes.push(b);
            }
            self.reader.consume(used);
            if let Some(end) = end {
                break end;
            }
        };
        bytes.truncate(bytes.trim_ascii_end().len());
        if end == b']' {
            self.done = true;
            if self.skip_white()?.is_some() {
                let problem = "text after the end of the array; expected one JSON array, or JSON lines with an \
                               object on every line";
                return Err(self.broken(self.line, problem));
            }
            if bytes.is_empty() && index == 1 {
                return Ok(None);
            }
        }
        Ok(Some(Record { line: start, element: Some(index), bytes }))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = match &mut self.elements {
            None => self.next_line(),
            Some(n) => {
                *n += 1;
                let index = *n;
                self.next_element(index)
            }
        };
        // After a broken file there is nothing more to say.
        self.done |= !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// The first four bytes (fewer at the end of the file) and a reader that still yields them.
fn peek<'a>(mut reader: Box<dyn Read + 'a>) -> io::Result<(Vec<u8>, Box<dyn Read + 'a>)> {
    let mut head = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(text: &[u8]) -> Vec<(usize, String)> {
        Records::new("t".into(), text)
            .unwrap()
            .map(|r| r.unwrap())
            .map(|r| (r.line, String::from_utf8(r.bytes).unwrap()))
            .collect()
    }

    fn gz(text: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        e.write_all(text).unwrap();
        e.finish().unwrap()
    }

    #[test]
    fn lines_skip_blanks_and_keep_their_numbers() {
        let want = vec![(2, "{1}".to_owned()), (4, "{2}".to_owned()), (5, "{3}".to_owned())];
        assert_eq!(all(b"\n{1}\n\n{2}\n{3}"), want);
        assert_eq!(all(b"\xef\xbb\xbf\r\n{1}\r\n \t\r\n{2}\r\n{3}\r\n"), want);
        assert_eq!(all(&gz(b"\n{1}\n\n{2}\n{3}\n")), want);
    }

    #[test]
    fn array_elements_are_cut_outside_strings_and_brackets() {
        let text = b" [\n {\"a\": \"x,]\\\"}\"},\n\n {\"b\": [1, {\"c\": 2}]} ,3\n]\n";
        let want = [(2, r#"{"a": "x,]\"}"}"#), (4, r#"{"b": [1, {"c": 2}]}"#), (4, "3")];
        assert_eq!(all(text), want.map(|(n, s)| (n, s.to_owned())));
        assert!(all(b"[ ]").is_empty());
        assert!(all(b"").is_empty());
        assert_eq!(all(b"[1,]"), [(1, "1".to_owned()), (1, String::new())]);
    }

    #[test]
    fn concatenated_gzip_members_are_one_file() {
        let mut bytes = gz(b"{1}\n");
        bytes.extend(gz(b"{2}\n"));
        assert_eq!(all(&bytes), [(1, "{1}".to_owned()), (2, "{2}".to_owned())]);
    }

    #[test]
    fn broken_files_end_with_an_error_and_then_nothing() {
        for (bytes, want) in [
            (b"[{\"a\": 1},\n {\"b\": \"".to_vec(), "t:2: the array never ends: the file stops in element 2"),
            (b"[1]\n[2]\n".to_vec(), "t:2: text after the end of the array"),
            (gz(&b"{1}\n{2}\n".repeat(3000))[..40].to_vec(), "truncated"),
        ] {
            let mut records = Records::new("t".into(), &bytes[..]).unwrap();
            let error = records.find_map(Result::err).expect(want).to_string();
            assert!(error.contains(want), "{error}");
            assert!(records.next().is_none());
        }
    }

    #[test]
    fn other_formats_are_named() {
        for (bytes, want) in
            [(&b"PAR1\x15"[..], "Parquet"), (b"\xff\xfe{\0", "UTF-16"), (b"PK\x03\x04", "zip")]
        {
            let error = Records::new("t".into(), bytes).err().unwrap().to_string();
            assert!(error.contains(want) && error.contains("expected JSON lines"), "{error}");
        }
    }
}
