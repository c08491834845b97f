//! Tokens from a file: `token,user,uid,"group1,group2"` a line.

use std::path::Path;

use super::UserInfo;
use super::bootstrap_token::same;

#[derive(Debug, thiserror::Error)]
pub enum StaticTokensError {
    #[error("token file {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("token file {path}, line {line}: it needs a token, a user and a uid")]
    Line { path: String, line: usize },
}

/// The file's tokens; few, so a list does.
#[derive(Debug, Default)]
pub struct StaticTokens(Vec<(String, UserInfo)>);

impl StaticTokens {
    pub fn read(path: &Path) -> Result<Self, StaticTokensError> {
        let path_text = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| StaticTokensError::Read {
            path: path_text(),
            source,
        })?;
        StaticTokens::parse(&text).map_err(|line| StaticTokensError::Line {
            path: path_text(),
            line,
        })
    }

    /// Or the number of the line that is wrong.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line);
            let [token, name, uid, groups @ ..] = fields.as_slice() else {
                return Err(index + 1);
            };
            if token.is_empty() || name.is_empty() {
                return Err(index + 1);
            }
            let groups = groups.first().map_or("", String::as_str);
            let groups = groups
                .split(',')
                .map(str::trim)
                .filter(|group| !group.is_empty());
            let mut user = UserInfo::new(name.as_str(), groups);
            user.uid.clone_from(uid);
            tokens.push((token.clone(), user));
        }
        Ok(StaticTokens(tokens))
    }

    pub(super) fn authenticate(&self, token: &str) -> Option<UserInfo> {
        let (_, user) = self
            .0
            .iter()
            .find(|(t, _)| same(t.as_bytes(), token.as_bytes()))?;
        Some(user.clone())
    }
}

/// Fields of a line; commas within double quotes do not separate.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => {
                if let Some(last) = fields.last_mut() {
                    last.push(other);
                }
            }
        }
    }
    fields
        .into_iter()
        .map(|field| field.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_users_with_groups() {
        let text = "# people\nt1,alice,1,\"devs,ops\"\n\nt2,bob,2\n";
        let tokens = StaticTokens::parse(text).unwrap();
        let alice = tokens.authenticate("t1").unwrap();
        assert_eq!((alice.name.as_str(), alice.uid.as_str()), ("alice", "1"));
        assert_eq!(alice.groups, ["devs", "ops"]);
        assert!(tokens.authenticate("t2").unwrap().groups.is_empty());
        assert!(tokens.authenticate("t").is_none());
        assert_eq!(StaticTokens::parse("t1,alice\n").err(), Some(1));
        assert_eq!(StaticTokens::parse("# x\n,alice,1\n").err(), Some(2));
    }
}
