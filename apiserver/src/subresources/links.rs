//! Links in pages that are seen through `proxy`: those that begin at the root of the other side get
//! the proxy's path before them, so that they lead through the proxy as well.
//!
//! Only the values of attributes that hold a URL are changed; everything else stays byte for byte.

/// The attributes of each element that hold one URL.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is no markup.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// The page with its links below `prefix`, a path without a slash at its end.
pub(super) fn rewrite(page: &str, prefix: &str) -> String {
    let mut out = String::with_capacity(page.len() + 64);
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            let end = comment.find("-->").map_or(rest.len(), |end| end + 7);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let begins = |c: u8| c.is_ascii_alphabetic() || c == b'/' || c == b'!';
        if !rest.as_bytes().get(1).copied().is_some_and(begins) {
            out.push('<');
            rest = &rest[1..];
            continue;
        }
        let (tag, after) = rest.split_at(tag_end(rest));
        let element = element(tag);
        out.push_str(&rewrite_tag(tag, &element, prefix));
        rest = after;
        if RAW.contains(&element.as_str()) {
            let end = raw_end(rest, &element);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

/// The end of a tag: its `>` outside of quotes, or the end of the page.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    text.len()
}

/// The name of the element that a tag begins, in lower case; nothing for ends and declarations.
fn element(tag: &str) -> String {
    let name = tag.trim_start_matches('<');
    let end = name.find(|c: char| !c.is_ascii_alphanumeric());
    name[..end.unwrap_or(name.len())].to_ascii_lowercase()
}

/// Where the content of an element ends that is no markup.
fn raw_end(text: &str, element: &str) -> usize {
    let end = format!("</{element}");
    text.to_ascii_lowercase().find(&end).unwrap_or(text.len())
}

fn rewrite_tag(tag: &str, element: &str, prefix: &str) -> String {
    let known = LINKS.iter().find(|(name, _)| *name == element);
    let Some((_, attributes)) = known else {
        return tag.to_owned();
    };
    let mut out = String::with_capacity(tag.len() + prefix.len());
    let mut rest = tag;
    // Names of attributes stand after white space; what is inside of quotes is skipped as a value.
    while let Some(space) = rest.find(|c: char| c.is_ascii_whitespace()) {
        let start = rest[space..]
            .find(|c: char| !c.is_ascii_whitespace())
            .map_or(rest.len(), |skip| space + skip);
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let name_end = rest
            .find(|c: char| c.is_ascii_whitespace() || c == '=' || c == '>' || c == '/')
            .unwrap_or(rest.len());
        let name = rest[..name_end].to_ascii_lowercase();
        out.push_str(&rest[..name_end]);
        rest = &rest[name_end..];
        let Some(value) = rest.trim_start().strip_prefix('=') else {
            continue;
        };
        let value = value.trim_start();
        out.push_str(&rest[..rest.len() - value.len()]);
        let (open, inner, after) = split_value(value);
        let close = if after.is_none() { "" } else { open };
        out.push_str(open);
        let is_link = attributes.contains(&name.as_str()) && begins_at_root(inner, prefix);
        if is_link {
            out.push_str(prefix);
        }
        out.push_str(inner);
        out.push_str(close);
        rest = after.unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The quote of a value, the value, and what follows the closing quote where there is one.
fn split_value(value: &str) -> (&str, &str, Option<&str>) {
    if value.starts_with(['"', '\'']) {
        let (open, inner) = value.split_at(1);
        let end = inner.find(open).unwrap_or(inner.len());
        return (open, &inner[..end], inner.get(end + 1..));
    }
    let end = value
        .find(|c: char| c.is_ascii_whitespace() || c == '>')
        .unwrap_or(value.len());
    ("", &value[..end], Some(&value[end..]))
}

/// Whether a URL is a path from the root that does not lead through the proxy already.
fn begins_at_root(url: &str, prefix: &str) -> bool {
    url.starts_with('/') && !url.starts_with("//") && !url.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_from_the_root_lead_through_the_proxy() {
        let cases = [
            (
                r#"<a href="/rewriteme">test</a>"#,
                r#"<a href="/p/proxy/rewriteme">test</a>"#,
            ),
            (
                "<IMG alt='/no' SRC='/i.png'/>",
                "<IMG alt='/no' SRC='/p/proxy/i.png'/>",
            ),
            (
                "<form action=/go method=post>",
                "<form action=/p/proxy/go method=post>",
            ),
            (
                r#"<a href = "/x" class="y">"#,
                r#"<a href = "/p/proxy/x" class="y">"#,
            ),
            (
                r#"<link rel="x" href="/p/proxy/there">"#,
                r#"<link rel="x" href="/p/proxy/there">"#,
            ),
            (
                r#"<script src="/s.js">var a = '<a href="/b">';</script>"#,
                r#"<script src="/p/proxy/s.js">var a = '<a href="/b">';</script>"#,
            ),
        ];
        for (page, expect) in cases {
            assert_eq!(rewrite(page, "/p/proxy"), expect);
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for page in [
            "",
            "plain text < and >, it's 1 < 2",
            r#"<a href="relative">"#,
            r#"<a href="https://example.com/x">"#,
            r#"<a href="//example.com/x">"#,
            r#"<p title="/a">"#,
            r#"<!-- <a href="/x"> -->"#,
            r#"</a href="/x">"#,
            "<a href=",
            r#"<a href="cut"#,
            "<a",
            "<",
        ] {
            assert_eq!(rewrite(page, "/p/proxy"), page);
        }
    }
}
