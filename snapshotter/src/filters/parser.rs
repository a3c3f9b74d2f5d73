//! Selectors from tokens.

use regex::RegexBuilder;

use super::scanner::{Scanner, Token};
use super::{FILTER_MAX, FilterError, REGEX_MAX, Selector, Test};

/// One filter: the selectors that must all match. The empty filter has none.
pub(super) fn parse(input: &str) -> Result<Vec<Selector>, FilterError> {
    let error = |at, what: &str| FilterError { input: input.to_owned(), at, what: what.to_owned() };
    if input.len() > FILTER_MAX {
        let head = input.chars().take(64).collect();
        return Err(FilterError { input: head, at: FILTER_MAX, what: "filter is too long".to_owned() });
    }
    let tokens = Scanner::new(input).tokens()?;
    if input.is_empty() {
        return Ok(Vec::new());
    }
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), end: input.len() };
    let mut selectors = Vec::new();
    loop {
        selectors.push(parser.selector().map_err(|(at, what)| error(at, what))?);
        match parser.tokens.next() {
            None => return Ok(selectors),
            Some((_, Token::Separator(','))) => {}
            Some((at, _)) => return Err(error(at, "expected a comma")),
        }
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<(usize, Token)>>,
    end: usize,
}

type Failed = (usize, &'static str);

impl Parser {
    fn selector(&mut self) -> Result<Selector, Failed> {
        let mut path = vec![self.field()?];
        while let Some((_, Token::Separator('.'))) = self.tokens.peek() {
            self.tokens.next();
            path.push(self.field()?);
        }
        let test = match self.tokens.peek() {
            None | Some((_, Token::Separator(','))) => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, Failed> {
        match self.tokens.next() {
            Some((_, Token::Field(field) | Token::Quoted('"', field))) => Ok(field),
            Some((at, _)) => Err((at, "expected a field")),
            None => Err((self.end, "expected a field")),
        }
    }

    fn test(&mut self) -> Result<Test, Failed> {
        match self.tokens.next() {
            Some((_, Token::Operator(operator))) if operator == "==" => Ok(Test::Equal(self.value(false)?)),
            Some((_, Token::Operator(operator))) if operator == "!=" => {
                Ok(Test::NotEqual(self.value(false)?))
            }
            Some((_, Token::Operator(operator))) if operator == "~=" => {
                let regex = RegexBuilder::new(&self.value(true)?).size_limit(REGEX_MAX).build();
                Ok(regex.map_or(Test::Never, Test::Matches))
            }
            Some((at, _)) => Err((at, "expected ==, != or ~=")),
            None => Err((self.end, "expected ==, != or ~=")),
        }
    }

    fn value(&mut self, any_quote: bool) -> Result<String, Failed> {
        match self.tokens.next() {
            Some((_, Token::Value(value) | Token::Field(value) | Token::Quoted('"', value))) => Ok(value),
            Some((_, Token::Quoted(_, value))) if any_quote => Ok(value),
            Some((at, _)) => Err((at, "expected a value")),
            None => Err((self.end, "expected a value")),
        }
    }
}
