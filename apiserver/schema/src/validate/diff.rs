//! The difference of two documents, as upstream's refusals show it: hunks with three lines of
//! context, matched as Python's `difflib` matches (lines that are all over a long document are
//! not used to find matches).

use std::collections::BTreeMap;

const CONTEXT: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Match {
    a: usize,
    b: usize,
    size: usize,
}

struct Matcher<'a> {
    a: &'a [&'a str],
    b: &'a [&'a str],
    positions: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Matcher<'a> {
    fn new(a: &'a [&'a str], b: &'a [&'a str]) -> Self {
        let mut positions: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, line) in b.iter().enumerate() {
            positions.entry(line).or_default().push(i);
        }
        if b.len() >= 200 {
            let often = b.len() / 100 + 1;
            positions.retain(|_, at| at.len() <= often);
        }
        Matcher { a, b, positions }
    }

    /// The longest common run within these bounds, the first of several.
    fn longest(&self, alo: usize, ahi: usize, blo: usize, bhi: usize) -> Match {
        let mut best = Match {
            a: alo,
            b: blo,
            size: 0,
        };
        let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
        for i in alo..ahi {
            let mut next = BTreeMap::new();
            for &j in self.positions.get(self.a[i]).into_iter().flatten() {
                if j < blo {
                    continue;
                }
                if j >= bhi {
                    break;
                }
                let before = j.checked_sub(1).and_then(|j| lengths.get(&j));
                let length = before.copied().unwrap_or(0) + 1;
                next.insert(j, length);
                if length > best.size {
                    best = Match {
                        a: i + 1 - length,
                        b: j + 1 - length,
                        size: length,
                    };
                }
            }
            lengths = next;
        }
        self.widen(best, (alo, ahi, blo, bhi))
    }

    fn widen(&self, mut best: Match, bounds: (usize, usize, usize, usize)) -> Match {
        let (alo, ahi, blo, bhi) = bounds;
        while best.a > alo && best.b > blo && self.a[best.a - 1] == self.b[best.b - 1] {
            best.a -= 1;
            best.b -= 1;
            best.size += 1;
        }
        while best.a + best.size < ahi
            && best.b + best.size < bhi
            && self.a[best.a + best.size] == self.b[best.b + best.size]
        {
            best.size += 1;
        }
        best
    }

    fn matches(&self) -> Vec<Match> {
        let mut found = Vec::new();
        let mut open = vec![(0, self.a.len(), 0, self.b.len())];
        while let Some((alo, ahi, blo, bhi)) = open.pop() {
            let best = self.longest(alo, ahi, blo, bhi);
            if best.size == 0 {
                continue;
            }
            found.push(best);
            if alo < best.a && blo < best.b {
                open.push((alo, best.a, blo, best.b));
            }
            let (aend, bend) = (best.a + best.size, best.b + best.size);
            if aend < ahi && bend < bhi {
                open.push((aend, ahi, bend, bhi));
            }
        }
        found.sort_by_key(|m| (m.a, m.b));
        found.push(Match {
            a: self.a.len(),
            b: self.b.len(),
            size: 0,
        });
        found
    }
}

/// A run of lines that are the same or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    same: bool,
    a: (usize, usize),
    b: (usize, usize),
}

fn runs(a: &[&str], b: &[&str]) -> Vec<Run> {
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::new();
    for found in Matcher::new(a, b).matches() {
        if i < found.a || j < found.b {
            all.push(Run {
                same: false,
                a: (i, found.a),
                b: (j, found.b),
            });
        }
        (i, j) = (found.a + found.size, found.b + found.size);
        if found.size > 0 {
            let same = Run {
                same: true,
                a: (found.a, i),
                b: (found.b, j),
            };
            match all.last_mut() {
                Some(last) if last.same => {
                    last.a.1 = i;
                    last.b.1 = j;
                }
                _ => all.push(same),
            }
        }
    }
    all
}

fn hunks(mut all: Vec<Run>) -> Vec<Vec<Run>> {
    if let Some(first) = all.first_mut().filter(|r| r.same) {
        first.a.0 = first.a.0.max(first.a.1.saturating_sub(CONTEXT));
        first.b.0 = first.b.0.max(first.b.1.saturating_sub(CONTEXT));
    }
    if let Some(last) = all.last_mut().filter(|r| r.same) {
        last.a.1 = last.a.1.min(last.a.0 + CONTEXT);
        last.b.1 = last.b.1.min(last.b.0 + CONTEXT);
    }
    let mut groups = Vec::new();
    let mut group = Vec::new();
    for run in all {
        if run.same && run.a.1 - run.a.0 > 2 * CONTEXT {
            group.push(Run {
                same: true,
                a: (run.a.0, run.a.0 + CONTEXT),
                b: (run.b.0, run.b.0 + CONTEXT),
            });
            groups.push(std::mem::take(&mut group));
            group.push(Run {
                same: true,
                a: (run.a.1 - CONTEXT, run.a.1),
                b: (run.b.1 - CONTEXT, run.b.1),
            });
        } else {
            group.push(run);
        }
    }
    if group.iter().any(|r| !r.same) {
        groups.push(group);
    }
    groups.retain(|g| g.iter().any(|r| !r.same));
    groups
}

fn range((start, end): (usize, usize)) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        many => format!("{},{many}", start + 1),
    }
}

/// The hunks of two texts; empty when they are equal.
pub(super) fn unified(old: &str, new: &str) -> String {
    let a: Vec<&str> = old.split('\n').collect();
    let b: Vec<&str> = new.split('\n').collect();
    let mut out = String::new();
    for hunk in hunks(runs(&a, &b)) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else {
            continue;
        };
        let whole = |f: (usize, usize), l: (usize, usize)| range((f.0, l.1));
        out.push_str(&format!(
            "@@ -{} +{} @@\n",
            whole(first.a, last.a),
            whole(first.b, last.b)
        ));
        let mut lines = |sign: char, lines: &[&str]| {
            for line in lines {
                out.push(sign);
                out.push_str(line);
                out.push('\n');
            }
        };
        for run in &hunk {
            if run.same {
                lines(' ', &a[run.a.0..run.a.1]);
            } else {
                lines('-', &a[run.a.0..run.a.1]);
                lines('+', &b[run.b.0..run.b.1]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_no_hunks() {
        assert_eq!(unified("a\nb", "a\nb"), "");
    }

    #[test]
    fn a_changed_line_stands_between_three_lines_of_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9";
        let new = old.replace('5', "five");
        let expect = "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n";
        assert_eq!(unified(old, &new), expect);
    }

    #[test]
    fn distant_changes_have_hunks_of_their_own() {
        let old: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let new = old.join("\n").replacen("2\n", "two\n", 1) + "\nend";
        let text = unified(&old.join("\n"), &new);
        assert_eq!(text.matches("@@ -").count(), 2);
        assert!(
            text.ends_with("@@ -28,3 +28,4 @@\n 27\n 28\n 29\n+end\n"),
            "{text}"
        );
    }
}
