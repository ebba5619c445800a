//! Which of the names that a source tells are taken.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Longer patterns are refused.
const PATTERN_BYTES_MAX: usize = 256;

/// Patterns of names: `*` and `?` stand for any text and any character but a slash, `[ab]` for one of some, `{a,b}` for either. One
/// with a slash is for whole names, `@scope/name`; one without is for the name after the scope.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    /// `None` keeps all.
    include: Option<Names>,
    exclude: Names,
}

#[derive(Debug, Clone, Default)]
struct Names {
    whole: GlobSet,
    short: GlobSet,
}

/// A text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidPattern {
    /// Which one, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub message: String,
}

// === impl Patterns ===

impl Patterns {
    /// Keeps names that one of `include` fits, or all if there is none, unless one of `exclude` fits them.
    ///
    /// # Errors
    /// The first text that is no pattern, of `include` and then of `exclude`.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, InvalidPattern> {
        Ok(Self {
            include: match include {
                [] => None,
                some => Some(Names::new(some)?),
            },
            exclude: Names::new(exclude)?,
        })
    }

    /// Whether a name is taken.
    #[must_use]
    pub fn keeps(&self, name: &str) -> bool {
        self.include
            .as_ref()
            .is_none_or(|include| include.fits(name))
            && !self.exclude.fits(name)
    }
}

// === impl Names ===

impl Names {
    fn new(patterns: &[String]) -> Result<Self, InvalidPattern> {
        let (mut whole, mut short) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for (index, pattern) in patterns.iter().enumerate() {
            let invalid = |message: String| InvalidPattern { index, message };
            if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
                return Err(invalid(format!("it has 1 to {PATTERN_BYTES_MAX} bytes")));
            }
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            let glob = glob.map_err(|error| invalid(error.kind().to_string()))?;
            if pattern.contains('/') {
                whole.add(glob);
            } else {
                short.add(glob);
            }
        }
        let set = |builder: GlobSetBuilder| {
            builder.build().map_err(|error| InvalidPattern {
                index: 0,
                message: error.kind().to_string(),
            })
        };
        Ok(Self {
            whole: set(whole)?,
            short: set(short)?,
        })
    }

    fn fits(&self, name: &str) -> bool {
        let short = name.rsplit('/').next().unwrap_or(name);
        self.whole.is_match(name) || self.short.is_match(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(include: &[&str], exclude: &[&str]) -> Result<Patterns, InvalidPattern> {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        Patterns::new(&texts(include), &texts(exclude))
    }

    #[test]
    fn rule_1_names_are_included_and_excluded_by_pattern() {
        for (include, exclude, kept, dropped) in [
            (&[][..], &[][..], &["a", "@s/a"][..], &[][..]),
            (
                &["language-*"],
                &["*-old"],
                &["@s/language-http", "language-a"],
                &["@s/other", "@language-x/a", "@s/language-old"],
            ),
            (
                &["@s/*", "lodash.{get,set}"],
                &["@s/x?"],
                &["@s/a", "lodash.get", "@s/x", "@s/xyz"],
                &["@t/a", "lodash.has", "@s/xy", "s/a"],
            ),
            // Names with characters of their own meaning in patterns are taken as they are written.
            (&["json.patch"], &[], &["json.patch"], &["jsonxpatch"]),
        ] {
            let patterns = patterns(include, exclude).expect("patterns");
            for name in kept {
                assert!(patterns.keeps(name), "{include:?} {exclude:?} {name}");
            }
            for name in dropped {
                assert!(!patterns.keeps(name), "{include:?} {exclude:?} {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        let error = patterns(&["a", "[b"], &[]).expect_err("open");
        assert_eq!(error.index, 1);
        let error = patterns(&[], &["{a"]).expect_err("open");
        assert_eq!(error.index, 0);
        assert!(patterns(&[""], &[]).is_err());
        assert!(patterns(&[&"x".repeat(257)], &[]).is_err());
    }
}
