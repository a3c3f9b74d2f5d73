//! Tokens of a filter. What a run of characters is depends on what came before: after an operator it is
//! a value, which may hold nearly anything, else a field.

use super::FilterError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Field(String),
    Value(String),
    /// The quote character, and the text unquoted.
    Quoted(char, String),
    Separator(char),
    Operator(String),
}

pub(super) struct Scanner<'a> {
    input: &'a str,
    at: usize,
    value_next: bool,
}

impl<'a> Scanner<'a> {
    pub fn new(input: &'a str) -> Self {
        Self { input, at: 0, value_next: false }
    }

    /// Every token with its offset.
    pub fn tokens(mut self) -> Result<Vec<(usize, Token)>, FilterError> {
        let mut tokens = Vec::new();
        while let Some(first) = self.skip_space() {
            let at = self.at;
            tokens.push((at, self.token(first)?));
        }
        Ok(tokens)
    }

    fn token(&mut self, first: char) -> Result<Token, FilterError> {
        match first {
            '"' | '/' | '|' => self.quoted(first),
            ',' | '.' => {
                self.value_next = false;
                self.at += 1;
                Ok(Token::Separator(first))
            }
            '=' | '!' | '~' => {
                self.value_next = true;
                Ok(Token::Operator(self.take_while(|c| matches!(c, '=' | '!' | '~'))))
            }
            _ if self.value_next => {
                self.value_next = false;
                match self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control()) {
                    empty if empty.is_empty() => Err(self.error("expected a value")),
                    value => Ok(Token::Value(value)),
                }
            }
            c if is_field(c) => Ok(Token::Field(self.take_while(is_field))),
            _ => Err(self.error("unexpected character")),
        }
    }

    fn skip_space(&mut self) -> Option<char> {
        let rest = self.input[self.at..].trim_start();
        self.at = self.input.len() - rest.len();
        rest.chars().next()
    }

    fn take_while(&mut self, take: impl Fn(char) -> bool) -> String {
        let rest = &self.input[self.at..];
        let end = rest.find(|c| !take(c)).unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.input[self.at..].chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// A Go string literal, except that any of the three quotes may surround it.
    fn quoted(&mut self, quote: char) -> Result<Token, FilterError> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err(self.error("quoted text does not end")),
                Some(c) if c == quote => break,
                Some('\\') => self.escape(quote, &mut text)?,
                Some(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        match String::from_utf8(text) {
            Ok(text) => Ok(Token::Quoted(quote, text)),
            Err(_) => Err(self.error("quoted text is not UTF-8")),
        }
    }

    fn escape(&mut self, quote: char, text: &mut Vec<u8>) -> Result<(), FilterError> {
        let byte = match self.next() {
            Some('a') => 0x07,
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 0x0b,
            Some('\\') => b'\\',
            Some(c) if c == quote && c.is_ascii() => c as u8,
            Some('x') => self.number(2, 16)?,
            Some('0'..='7') => {
                self.at -= 1;
                self.number(3, 8)?
            }
            Some(c @ ('u' | 'U')) => {
                let code = self.digits(if c == 'u' { 4 } else { 8 }, 16)?;
                let c = char::from_u32(code).ok_or_else(|| self.error("no such character"))?;
                text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.error("unknown escape")),
        };
        text.push(byte);
        Ok(())
    }

    fn number(&mut self, digits: usize, radix: u32) -> Result<u8, FilterError> {
        let number = self.digits(digits, radix)?;
        u8::try_from(number).map_err(|_| self.error("escape is larger than a byte"))
    }

    fn digits(&mut self, digits: usize, radix: u32) -> Result<u32, FilterError> {
        let text = self.input[self.at..].get(..digits).filter(|text| text.chars().all(|c| c.is_digit(radix)));
        let number = text.and_then(|text| u32::from_str_radix(text, radix).ok());
        let number = number.ok_or_else(|| self.error("malformed escape"))?;
        self.at += digits;
        Ok(number)
    }

    fn error(&self, what: &str) -> FilterError {
        FilterError { input: self.input.to_owned(), at: self.at, what: what.to_owned() }
    }
}

fn is_field(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
