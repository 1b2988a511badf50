//! Where this checkout is, and what its Rust sources say.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A Rust source file of the workspace.
#[derive(Debug, Clone)]
pub struct Source {
    /// The folder of its package: `store`, `mail`, …
    pub layer: String,
    /// Its path from the root of the checkout.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

impl Source {
    /// The lines with their numbers, without comments and without what stands between double quotes. Crude: good enough
    /// to look for names.
    pub fn code(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, without_strings_and_comments(line)))
    }

    /// The code without the tests at its end.
    pub fn shipped_code(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        self.code()
            .take_while(|(_, code)| code.trim() != "#[cfg(test)]")
    }
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .to_path_buf()
}

/// All Rust sources of the workspace's packages, in the order of their paths.
pub fn sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    for layer in layers() {
        collect(&root, &layer, &root.join(&layer), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The folders of the workspace's packages, bottom-up, as the root `Cargo.toml` lists them.
pub fn layers() -> Vec<String> {
    let manifest =
        fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let members = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(members, _)| members)
        .expect("the manifest lists its members");
    members
        .split(',')
        .map(|member| member.trim().trim_matches('"').to_owned())
        .filter(|member| !member.is_empty())
        .collect()
}

fn collect(root: &Path, layer: &str, folder: &Path, found: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            collect(root, layer, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            let path = path
                .strip_prefix(root)
                .expect("it lies under the root")
                .to_path_buf();
            found.push(Source {
                layer: layer.to_owned(),
                path,
                text,
            });
        }
    }
}

fn without_strings_and_comments(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let mut quoted = false;
    let mut previous = ' ';
    for (at, character) in line.char_indices() {
        if character == '"' && previous != '\\' && previous != '\'' {
            quoted = !quoted;
        } else if !quoted {
            if line[at..].starts_with("//") {
                break;
            }
            code.push(character);
        }
        previous = character;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        for (line, code) in [
            ("let x = 1; // engine::open", "let x = 1; "),
            ("//! engine::open", ""),
            (r#"error("engine::open", y)"#, "error(, y)"),
            (r#"error("a \" engine::open", y)"#, "error(, y)"),
            ("engine::open()", "engine::open()"),
        ] {
            assert_eq!(without_strings_and_comments(line), code, "{line}");
        }
    }

    #[test]
    fn the_members_are_listed_bottom_up_from_the_model() {
        assert_eq!(layers().first().map(String::as_str), Some("model"));
        assert!(
            sources()
                .iter()
                .any(|source| source.path.ends_with("model/src/lib.rs"))
        );
    }
}
