use std::str::FromStr;

/// `-e NAME=VALUE`, or `-e NAME`: the caller's own value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// The name.
    pub(crate) name: String,
    /// The value; `None` asks for the caller's.
    pub(crate) value: Option<String>,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(format!("expected NAME=VALUE or NAME, not {text:?}"));
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

impl Variable {
    /// The value to pass on: the one given, else `caller`'s for the name.
    ///
    /// # Errors
    /// When the caller's value is not UTF-8.
    pub(crate) fn resolve(&self, caller: impl FnOnce(&str) -> Option<std::ffi::OsString>) -> Result<Option<String>, String> {
        match &self.value {
            Some(value) => Ok(Some(value.clone())),
            None => caller(&self.name)
                .map(|value| value.into_string().map_err(|_| format!("the value of {} is not UTF-8", self.name)))
                .transpose(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    use super::*;

    #[test]
    fn only_the_first_equals_sign_divides() {
        let variable: Variable = "A=b=c d".parse().unwrap();
        assert_eq!((variable.name.as_str(), variable.value.as_deref()), ("A", Some("b=c d")));
        assert_eq!("A=".parse::<Variable>().unwrap().value.as_deref(), Some(""));
        assert!("=x".parse::<Variable>().is_err());
        assert!("".parse::<Variable>().is_err());
    }

    #[test]
    fn a_bare_name_takes_the_callers_value() {
        let variable: Variable = "A".parse().unwrap();
        assert_eq!(variable.resolve(|_| Some("x".into())), Ok(Some("x".to_owned())));
        assert_eq!(variable.resolve(|_| None), Ok(None));
        assert!(variable.resolve(|_| Some(OsString::from_vec(vec![0xff]))).is_err());
    }
}
