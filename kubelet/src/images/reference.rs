/// Why a text is no image name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name must be lowercase")]
    UpperCase,
}

/// An image's name in its full form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host, and port if there is one.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

const DEFAULT_REGISTRY: &str = "docker.io";

impl Reference {
    /// Reads a name as people write it: without registry it is Docker Hub's, without tag
    /// and digest it is the latest.
    pub(crate) fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash belongs to a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?)),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first.to_owned(), path.to_owned()),
            Some(_) => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
            None => (DEFAULT_REGISTRY.to_owned(), format!("library/{name}")),
        };
        let repository = path
            .strip_prefix("index.docker.io/")
            .unwrap_or(&path)
            .to_owned();
        check_repository(&repository)?;
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }

    pub(crate) fn full(&self) -> String {
        let mut text = format!("{}/{}", self.registry, self.repository);
        if let Some(tag) = &self.tag {
            text.push_str(&format!(":{tag}"));
        }
        if let Some(digest) = &self.digest {
            text.push_str(&format!("@{digest}"));
        }
        text
    }
}

fn is_host(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.chars().any(|c| c.is_ascii_uppercase())
}

fn check_tag(tag: &str) -> Result<String, ReferenceError> {
    let sound = !tag.is_empty()
        && tag.len() <= 128
        && tag
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && !tag.starts_with(['.', '-']);
    if sound {
        Ok(tag.to_owned())
    } else {
        Err(ReferenceError::Format)
    }
}

fn check_digest(digest: &str) -> Result<String, ReferenceError> {
    let sound = digest.split_once(':').is_some_and(|(kind, hex)| {
        !kind.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
    });
    if sound {
        Ok(digest.to_owned())
    } else {
        Err(ReferenceError::Format)
    }
}

fn check_repository(path: &str) -> Result<(), ReferenceError> {
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(ReferenceError::UpperCase);
    }
    let part_is_sound = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        !part.is_empty()
            && part.starts_with(inner)
            && part.ends_with(inner)
            && part
                .chars()
                .all(|c| inner(c) || matches!(c, '.' | '_' | '-'))
    };
    if path.split('/').all(part_is_sound) && path.len() <= 255 {
        Ok(())
    } else {
        Err(ReferenceError::Format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.2", "docker.io/library/nginx:1.2".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("r.io:5000/a/b:c", "r.io:5000/a/b:c".to_owned()),
            ("r.io:5000/a", "r.io:5000/a:latest".to_owned()),
            (
                &format!("a@{digest}"),
                format!("docker.io/library/a@{digest}"),
            ),
            (&format!("r.io/a:t@{digest}"), format!("r.io/a:t@{digest}")),
        ] {
            assert_eq!(Reference::parse(text).map(|r| r.full()), Ok(full), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "a b",
            "a:",
            "a:b c",
            "/a",
            "a//b",
            "a@sha256:x",
            "-a",
            "https://r.io/a",
        ] {
            assert_eq!(
                Reference::parse(text),
                Err(ReferenceError::Format),
                "{text}"
            );
        }
        assert_eq!(
            Reference::parse("library/Nginx"),
            Err(ReferenceError::UpperCase)
        );
    }
}
