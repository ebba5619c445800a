//! Icons: where a package's icons are, and what is really there.
//!
//! A template is an address of the operator's own with places for a package's name. A name fills path or query only: the template's
//! scheme, host and port are fixed before any name is looked at, and checked again afterwards. What an upstream sends is believed
//! only as far as its first bytes go; its media type is not looked at.

use std::fmt;

use bytes::Bytes;
use quick_xml::{
    NsReader,
    events::Event,
    name::{Namespace, ResolveResult},
};
use reqwest::Url;

use crate::{Answer, BodyEncoding, Error, Get, HttpClient, PackageName, ShownUrl, address};

/// What an icon looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IconShape {
    /// As high as it is wide.
    Square,
    /// Wider than high.
    Rectangle,
}

/// What an icon is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IconFormat {
    /// Portable Network Graphics.
    Png,
    /// Scalable Vector Graphics, not compressed.
    Svg,
}

/// Addresses of icons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IconTemplate {
    text: String,
    formats: Vec<IconFormat>,
    short_prefix: String,
    /// With an invented name; all addresses have its origin.
    sample: Url,
}

/// Why a text is no template, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidIconTemplate(String);

/// Where one source's icons come from.
#[derive(Debug, Clone)]
pub struct IconUpstream {
    client: HttpClient,
    template: IconTemplate,
    bytes_max: usize,
}

/// What an upstream says of an icon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IconAnswer {
    /// The caller's copy is still good.
    NotModified,
    /// It has none.
    Missing,
    /// This one, which is of the format that was asked for.
    Found {
        /// The file.
        bytes: Bytes,
        /// The tag for the next `if_none_match`, if the upstream has one.
        etag: Option<String>,
    },
}

// === impl IconShape ===

impl IconShape {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Square, Self::Rectangle];

    /// `square` or `rectangle`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Square => "square",
            Self::Rectangle => "rectangle",
        }
    }

    /// The shape of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.as_str() == text)
    }
}

// === impl IconFormat ===

impl IconFormat {
    /// All of them, the one that every client can show first.
    pub const ALL: [Self; 2] = [Self::Png, Self::Svg];

    /// The end of a file's name: `png` or `svg`.
    #[must_use]
    pub const fn ext(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Svg => "svg",
        }
    }

    /// `image/png` or `image/svg+xml`.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Svg => "image/svg+xml",
        }
    }

    /// The format with this ending.
    #[must_use]
    pub fn parse(ext: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.ext() == ext)
    }

    /// What the bytes are, judged by nothing but themselves: a PNG has its signature and begins with its header; an SVG is UTF-8
    /// text whose root is `svg` of that namespace, before which there is nothing that XML does not allow there.
    #[must_use]
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        if is_png(bytes) {
            Some(Self::Png)
        } else if is_svg(bytes) {
            Some(Self::Svg)
        } else {
            None
        }
    }
}

impl fmt::Display for IconFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Svg => "SVG",
        })
    }
}

fn is_png(bytes: &[u8]) -> bool {
    let Some(header) = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR") else {
        return false;
    };
    // Width and height, neither of which may be 0.
    let number = |at: usize| header.get(at..at + 4).is_some_and(|side| side != [0; 4]);
    number(0) && number(4) && header.len() > 13
}

fn is_svg(bytes: &[u8]) -> bool {
    const SVG: Namespace<'static> = Namespace("http://www.w3.org/2000/svg");
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = NsReader::from_str(text);
    loop {
        match reader.read_resolved_event() {
            Ok((ResolveResult::Bound(namespace), Event::Start(root) | Event::Empty(root))) => {
                return namespace == SVG && root.local_name().as_ref() == "svg";
            }
            Ok((_, Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_))) => {}
            Ok((_, Event::Text(between))) if between.trim_ascii().is_empty() => {}
            _ => return false,
        }
    }
}

// === impl IconTemplate ===

impl IconTemplate {
    /// Reads a template such as `https://cdn.example/{short}/{shape}.{ext}`. `{name}` is the whole name, `{short}` is the name without
    /// its scope and without `short_prefix`, `{shape}` is `square` or `rectangle`, and `{ext}` is `png` or `svg`; without `{ext}` the
    /// path has to end in one of the two, and only that format is asked for.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub fn parse(text: &str, short_prefix: &str) -> Result<Self, InvalidIconTemplate> {
        let invalid = |problem: String| Err(InvalidIconTemplate(problem));
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let place = rest[at..].split_inclusive('}').next().unwrap_or_default();
            if !["{name}", "{short}", "{shape}", "{ext}"].contains(&place) {
                return invalid(format!(
                    "`{place}` stands for nothing: there are {{name}}, {{short}}, {{shape}} and {{ext}}"
                ));
            }
            rest = &rest[at + place.len()..];
        }
        if !text.contains("{name}") && !text.contains("{short}") {
            return invalid("it needs {name} or {short}: all packages would have one icon".into());
        }
        if !text.contains("{shape}") {
            return invalid("it needs {shape}, which is `square` or `rectangle`".into());
        }
        let origin_ends = text
            .split_once("://")
            .and_then(|(scheme, rest)| Some(scheme.len() + 3 + rest.find(['/', '?', '#'])?));
        if origin_ends.is_none_or(|end| text.find('{').is_some_and(|first| first < end)) {
            return invalid("names belong into the path: begin with https://HOST/".into());
        }
        let (sample, path_only) = (
            fill(text, "x", "x", "square", "png"),
            text.split(['?', '#']),
        );
        let sample: Url = match sample.parse() {
            Ok(sample) if address::is_web(&sample) => sample,
            _ => return invalid("it is no http or https address".into()),
        };
        if !sample.username().is_empty() || sample.password().is_some() {
            return invalid("it holds a user or a password, which would be shown".into());
        }
        let formats = if text.contains("{ext}") {
            IconFormat::ALL.to_vec()
        } else {
            let path = path_only.into_iter().next().unwrap_or_default();
            let ends = |format: &IconFormat| path.ends_with(&format!(".{}", format.ext()));
            match IconFormat::ALL.into_iter().find(ends) {
                Some(format) => vec![format],
                None => {
                    return invalid("it needs {ext}, or a path that ends in .png or .svg".into());
                }
            }
        };
        Ok(Self {
            text: text.to_owned(),
            formats,
            short_prefix: short_prefix.to_owned(),
            sample,
        })
    }

    /// What is asked for.
    #[must_use]
    pub fn formats(&self) -> &[IconFormat] {
        &self.formats
    }

    /// The address of one icon.
    ///
    /// # Errors
    /// [`Error::AddressRefused`] if the name would lead to another place than the template's.
    pub fn url(
        &self,
        name: &PackageName,
        shape: IconShape,
        format: IconFormat,
    ) -> Result<Url, Error> {
        let unscoped = name.unscoped();
        let short = unscoped
            .strip_prefix(&self.short_prefix)
            .filter(|short| !short.is_empty())
            .unwrap_or(unscoped);
        let text = fill(
            &self.text,
            name.as_str(),
            short,
            shape.as_str(),
            format.ext(),
        );
        let refused = |problem: &str| Error::AddressRefused {
            url: ShownUrl::from(&self.sample),
            problem: format!("the icon of {name}: {problem}"),
        };
        // A segment of dots would be taken for a step upwards. No package is called so, but without its prefix one might be.
        if short.trim_start_matches('.').is_empty() {
            return Err(refused("its short name is made of dots"));
        }
        let url: Url = text.parse().map_err(|_| refused("no address"))?;
        if !address::same_origin(&url, &self.sample) {
            return Err(refused("another origin"));
        }
        Ok(url)
    }
}

/// The names of packages hold nothing that has a meaning in a path but the slash after a scope, which is meant.
fn fill(text: &str, name: &str, short: &str, shape: &str, ext: &str) -> String {
    text.replace("{name}", name)
        .replace("{short}", short)
        .replace("{shape}", shape)
        .replace("{ext}", ext)
}

// === impl IconUpstream ===

impl IconUpstream {
    /// Icons at the addresses of a template, up to this size.
    #[must_use]
    pub const fn new(client: HttpClient, template: IconTemplate, bytes_max: usize) -> Self {
        Self {
            client,
            template,
            bytes_max,
        }
    }

    /// Where they are.
    #[must_use]
    pub const fn template(&self) -> &IconTemplate {
        &self.template
    }

    /// Asks for one icon, unless it still has the tag `if_none_match`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if what is there is not of that format; [`Error::AddressRefused`]; else what the client says, but for
    /// [`Error::NotFound`], which is an answer.
    pub async fn fetch(
        &self,
        name: &PackageName,
        shape: IconShape,
        format: IconFormat,
        if_none_match: Option<&str>,
    ) -> Result<IconAnswer, Error> {
        let url = self.template.url(name, shape, format)?;
        let get = Get::new(url.clone(), format.media_type(), self.bytes_max)
            .if_none_match(if_none_match)
            .encoding(BodyEncoding::Gzip);
        match self.client.get(get).await {
            Ok(Answer::NotModified) => Ok(IconAnswer::NotModified),
            Ok(Answer::Found { body, etag, .. }) => match IconFormat::sniff(&body) {
                Some(found) if found == format => Ok(IconAnswer::Found { bytes: body, etag }),
                found => {
                    let found = found.map_or("no image".to_owned(), |found| found.to_string());
                    Err(Error::Malformed {
                        url: ShownUrl::from(&url),
                        problem: format!("the bytes are {found}, not {format}"),
                    })
                }
            },
            Err(error) if error.is_absence() => Ok(IconAnswer::Missing),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PNG: &[u8] =
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89";

    #[test]
    fn rule_3_a_type_is_what_the_bytes_say() {
        assert_eq!(IconFormat::sniff(PNG), Some(IconFormat::Png));
        for svg in [
            "<svg xmlns='http://www.w3.org/2000/svg'/>",
            "\u{feff}<?xml version=\"1.0\"?>\n<!-- <html> -->\n<!DOCTYPE svg PUBLIC \"x\" \"y\">\n<svg xmlns=\"http://www.w3.org/2000/svg\"><g/></svg>",
            "<s:svg xmlns:s='http://www.w3.org/2000/svg'></s:svg>",
        ] {
            assert_eq!(
                IconFormat::sniff(svg.as_bytes()),
                Some(IconFormat::Svg),
                "{svg}"
            );
        }
        for neither in [
            &b""[..],
            b"<",
            b"<svg/>",
            b"<svg xmlns='http://www.w3.org/1999/xhtml'/>",
            b"<html><svg xmlns='http://www.w3.org/2000/svg'/></html>",
            b"<!DOCTYPE html><html xmlns='http://www.w3.org/2000/svg'></html>",
            b"text <svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\xff<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\x89PNG\r\n\x1a\n",
            b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\0\0\0\0\x01\x08\x06\0\0\0",
            b"GIF89a",
            b"{\"error\":\"not found\"}",
        ] {
            let shown = String::from_utf8_lossy(neither);
            assert_eq!(IconFormat::sniff(neither), None, "{shown}");
        }
    }

    #[test]
    fn a_template_says_what_is_asked_for() {
        let name = PackageName::parse("@openfn/language-http").expect("a name");
        let template =
            IconTemplate::parse("https://cdn.example/{short}/{shape}.{ext}?v=1", "language-")
                .expect("a template");
        assert_eq!(template.formats(), IconFormat::ALL);
        let url = template.url(&name, IconShape::Square, IconFormat::Svg);
        assert_eq!(
            url.expect("an address").as_str(),
            "https://cdn.example/http/square.svg?v=1"
        );
        let template =
            IconTemplate::parse("http://h:1/{name}/{shape}.png", "").expect("a template");
        assert_eq!(template.formats(), [IconFormat::Png]);
        let url = template.url(&name, IconShape::Rectangle, IconFormat::Png);
        assert_eq!(
            url.expect("an address").as_str(),
            "http://h:1/@openfn/language-http/rectangle.png"
        );
        let unprefixed = PackageName::parse("language-").expect("a name");
        let template = IconTemplate::parse("http://h/{short}/{shape}.png", "language-");
        let url =
            template
                .expect("a template")
                .url(&unprefixed, IconShape::Square, IconFormat::Png);
        assert_eq!(url.expect("an address").path(), "/language-/square.png");
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said() {
        for (text, part) in [
            ("https://h/{shape}.{ext}", "{name} or {short}"),
            ("https://h/{name}.{ext}", "{shape}"),
            ("https://h/{name}/{shape}", "{ext}"),
            ("https://h/{name}/{shape}?a=.png", "{ext}"),
            ("https://h/{name}/{shape}/{size}.png", "{size}"),
            ("https://h/{name}/{shape.png", "{shape.png"),
            ("https://{name}.h/{shape}.{ext}", "path"),
            ("https://h:{name}/{shape}.{ext}", "path"),
            ("{name}://h/{shape}.{ext}", "path"),
            ("/{name}/{shape}.{ext}", "path"),
            ("file:///{name}/{shape}.{ext}", "http"),
            ("ftp://h/{name}/{shape}.{ext}", "http"),
            ("https://a:b@h/{name}/{shape}.{ext}", "password"),
        ] {
            let error = IconTemplate::parse(text, "").expect_err(text);
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_short_name_of_dots_leads_nowhere() {
        let template =
            IconTemplate::parse("http://h/a/{short}/{shape}.png", "x").expect("a template");
        for name in ["x..", "x."] {
            let name = PackageName::parse(name).expect("a name");
            let refused = template.url(&name, IconShape::Square, IconFormat::Png);
            assert_eq!(
                refused.expect_err("refused").reason(),
                "ADDRESS_REFUSED",
                "{name}"
            );
        }
    }

    proptest! {
        /// Whatever a package is called, its icon's address has the template's origin and folder.
        #[test]
        fn rule_14_no_name_leaves_the_templates_folder(
            scope in "[a-z0-9~'!()*_-][a-z0-9._~'!()*-]{0,8}",
            name in "[A-Za-z0-9~'!()*][A-Za-z0-9._~'!()*-]{0,12}",
            prefix in "[a-z.]{0,2}",
        ) {
            let template = IconTemplate::parse("http://h:1/icons/{short}/{shape}.{ext}", &prefix)
                .expect("a template");
            for text in [format!("@{scope}/{name}"), name] {
                let Ok(name) = PackageName::parse(&text) else { continue };
                let Ok(url) = template.url(&name, IconShape::Square, IconFormat::Png) else { continue };
                prop_assert_eq!(url.origin().ascii_serialization(), "http://h:1");
                prop_assert!(url.path().starts_with("/icons/") && url.path().ends_with("/square.png"));
                prop_assert_eq!(url.path().split('/').count(), 4);
            }
        }
    }
}
