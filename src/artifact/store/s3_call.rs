//! The calls to S3 that this program makes, by role, and the permissions that they need at AWS.
//!
//! A role is one set of credentials: a node, a node that may coordinate, CI. `cutover iam-policy` prints the permissions. Tests
//! compare [`S3Call`] with the calls of the AWS SDK in this directory, and [`StoreRole`] with the methods of
//! [`Store`](super::Store) that the modules of each role call.

use std::collections::BTreeSet;

/// A call to S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum S3Call {
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    DeleteObject,
    GetObject,
    HeadObject,
    ListMultipartUploads,
    PutObject,
    UploadPart,
}

/// What a permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Objects below the prefix.
    Objects,
    /// Objects of the history, below `<prefix>/<app>/history/`.
    History,
    /// The bucket itself.
    Bucket,
}

/// A permission of AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Permission {
    pub(crate) subject: Subject,
    /// For example `s3:GetObject`.
    pub(crate) action: &'static str,
}

/// A group of methods of [`Store`](super::Store) that make the same calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    /// One request, because the object is smaller than a part.
    WriteHistory,
    Upload,
    Delete,
    RemoveDeadUploads,
}

/// Whose credentials they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreRole {
    /// An agent that never coordinates.
    Node,
    /// An agent that may coordinate.
    Coordinator,
    /// `cutover publish` and `cutover build prune`.
    Ci,
}

impl S3Call {
    /// The actions that AWS checks: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3".
    const fn permissions(self, objects: Subject) -> &'static [Permission] {
        const fn on(subject: Subject, action: &'static str) -> Permission {
            Permission { subject, action }
        }
        match self {
            // Without s3:ListBucket, S3 answers 403 for a missing object, which does not prove that it is missing.
            Self::GetObject | Self::HeadObject => {
                const { &[on(Subject::Objects, "s3:GetObject"), on(Subject::Bucket, "s3:ListBucket")] }
            }
            Self::PutObject | Self::CreateMultipartUpload | Self::UploadPart | Self::CompleteMultipartUpload => {
                match objects {
                    Subject::History => const { &[on(Subject::History, "s3:PutObject")] },
                    Subject::Objects | Subject::Bucket => const { &[on(Subject::Objects, "s3:PutObject")] },
                }
            }
            Self::AbortMultipartUpload => const { &[on(Subject::Objects, "s3:AbortMultipartUpload")] },
            Self::DeleteObject => const { &[on(Subject::Objects, "s3:DeleteObject")] },
            Self::ListMultipartUploads => const { &[on(Subject::Bucket, "s3:ListBucketMultipartUploads")] },
        }
    }
}

impl Operation {
    const fn calls(self) -> &'static [S3Call] {
        match self {
            Self::Read => &[S3Call::HeadObject, S3Call::GetObject],
            Self::WriteHistory => &[S3Call::PutObject],
            Self::Upload => &[
                S3Call::PutObject,
                S3Call::CreateMultipartUpload,
                S3Call::UploadPart,
                S3Call::CompleteMultipartUpload,
                S3Call::AbortMultipartUpload,
                S3Call::HeadObject,
                S3Call::GetObject,
            ],
            Self::Delete => &[S3Call::DeleteObject],
            Self::RemoveDeadUploads => &[S3Call::ListMultipartUploads, S3Call::AbortMultipartUpload],
        }
    }

    const fn subject(self) -> Subject {
        match self {
            Self::WriteHistory => Subject::History,
            Self::Read | Self::Upload | Self::Delete | Self::RemoveDeadUploads => Subject::Objects,
        }
    }
}

impl StoreRole {
    const fn operations(self) -> &'static [Operation] {
        match self {
            Self::Node => &[Operation::Read],
            Self::Coordinator => &[Operation::Read, Operation::WriteHistory],
            Self::Ci => &[Operation::Read, Operation::Upload, Operation::Delete, Operation::RemoveDeadUploads],
        }
    }

    /// The least permissions of the role, sorted.
    pub(crate) fn permissions(self) -> BTreeSet<Permission> {
        let of = |operation: &Operation| {
            let subject = operation.subject();
            operation.calls().iter().flat_map(move |call| call.permissions(subject))
        };
        self.operations().iter().flat_map(of).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    const CALLS: [S3Call; 9] = [
        S3Call::AbortMultipartUpload,
        S3Call::CompleteMultipartUpload,
        S3Call::CreateMultipartUpload,
        S3Call::DeleteObject,
        S3Call::GetObject,
        S3Call::HeadObject,
        S3Call::ListMultipartUploads,
        S3Call::PutObject,
        S3Call::UploadPart,
    ];

    /// The methods of `Store` that make calls.
    const METHODS: [(&str, Operation); 12] = [
        ("get", Operation::Read),
        ("get_range", Operation::Read),
        ("get_small", Operation::Read),
        ("head", Operation::Read),
        ("stat", Operation::Read),
        ("compare", Operation::Read),
        ("has_any", Operation::Read),
        ("put", Operation::Upload),
        ("put_file", Operation::Upload),
        ("put_small", Operation::Upload),
        ("delete", Operation::Delete),
        ("remove_dead_uploads", Operation::RemoveDeadUploads),
    ];

    /// The sources below `src/<path>` without blanks, by path.
    fn sources(path: &str) -> Vec<(PathBuf, String)> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (mut found, mut waiting) = (Vec::new(), vec![top.join(path)]);
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let text = fs::read_to_string(&path).unwrap();
                let code: String = text.lines().map(|line| line.split("//").next().unwrap()).collect();
                let code = code.split_whitespace().collect();
                found.push((path.strip_prefix(&top).unwrap().to_owned(), code));
            }
        }
        found
    }

    /// The names that are called behind `before`: `client.get_object()` gives `get_object` behind `client.`.
    fn called(code: &str, before: &str) -> BTreeSet<String> {
        let name = |rest: &str| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
            rest[end..].starts_with('(').then(|| rest[..end].to_owned())
        };
        code.match_indices(before).filter_map(|(at, _)| name(&code[at + before.len()..])).collect()
    }

    /// `GetObject` as `get_object`.
    fn sdk_name(call: S3Call) -> String {
        let mut name = String::new();
        for letter in format!("{call:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    #[test]
    fn every_call_of_the_sdk_has_its_permissions() {
        let in_code: BTreeSet<String> =
            sources("artifact/store").iter().flat_map(|(_, code)| called(code, "client.")).collect();
        assert_eq!(in_code, CALLS.into_iter().map(sdk_name).collect(), "keep S3Call and StoreRole up to date");
        // Each call belongs to an operation, and each operation to a role.
        let of_ci: Vec<S3Call> = StoreRole::Ci.operations().iter().flat_map(|it| it.calls()).copied().collect();
        assert!(CALLS.iter().all(|call| of_ci.contains(call)));
        for elsewhere in ["agent", "api", "cli", "control", "chat", "notify"] {
            let found = sources(elsewhere).into_iter().filter(|(_, code)| code.contains("aws_sdk_s3"));
            assert_eq!(found.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<PathBuf>::new());
        }
    }

    /// The operations of a source file.
    fn operations(path: &Path, code: &str) -> Vec<Operation> {
        let names = called(code, "store.").into_iter().chain(called(code, "store().")).chain(called(code, "store)."));
        let is_archive = path.starts_with("agent/coordinator") || path.ends_with("control/archive.rs");
        names
            .filter_map(|name| METHODS.iter().find(|(known, _)| *known == name))
            // The only objects that a coordinator writes are segments of the history.
            .map(
                |(name, operation)| {
                    if is_archive && *name == "put_small" { Operation::WriteHistory } else { *operation }
                },
            )
            .collect()
    }

    #[test]
    fn every_role_has_the_operations_of_its_code_and_no_other() {
        let of = |paths: &[&str], but: &[&str]| {
            let files = paths.iter().flat_map(|path| sources(path));
            let files = files.filter(|(path, _)| !but.iter().any(|but| path.starts_with(but)));
            files.flat_map(|(path, code)| operations(&path, &code)).collect::<Vec<_>>()
        };
        // The API of an agent and shared code only read.
        let publishing = ["control/publish.rs", "control/retention.rs"];
        let node = of(
            &["agent", "api", "chat", "artifact/fetch", "control"],
            &["agent/coordinator", publishing[0], publishing[1]],
        );
        assert!(!node.is_empty() && node.iter().all(|it| StoreRole::Node.operations().contains(it)), "{node:?}");
        let coordinator = of(&["agent/coordinator"], &[]);
        let ci = of(&["cli", publishing[0], publishing[1]], &[]);
        for (role, found) in [(StoreRole::Coordinator, coordinator), (StoreRole::Ci, ci)] {
            let allowed = role.operations();
            assert!(found.iter().all(|it| allowed.contains(it)), "{role:?}: {found:?}");
            assert!(allowed.iter().all(|it| found.contains(it)), "{role:?} needs only {found:?}");
        }
    }

    #[test]
    fn every_method_of_the_store_is_classified() {
        let mut found = BTreeSet::new();
        for (path, code) in sources("artifact/store") {
            let Some((_, methods)) = code.split_once("implStore{") else { continue };
            let methods = methods.split_once("impl").map_or(methods, |(own, _)| own);
            let public = |at: usize| methods[..at].ends_with("pub") || methods[..at].ends_with("pub(crate)");
            let names = methods.match_indices("asyncfn").filter(|(at, _)| public(*at));
            let names = names.map(|(at, found)| methods[at + found.len()..].split('(').next().unwrap().to_owned());
            found.extend(names.filter(|name| !path.ends_with("s3_call.rs") && name != "open" && name != "has_app"));
        }
        assert_eq!(found, METHODS.iter().map(|(name, _)| (*name).to_owned()).collect(), "keep METHODS up to date");
    }

    #[test]
    fn the_permissions_of_a_role_are_the_least() {
        let of = |role: StoreRole| role.permissions().iter().map(|it| it.action).collect::<Vec<_>>();
        assert_eq!(of(StoreRole::Node), ["s3:GetObject", "s3:ListBucket"]);
        assert_eq!(of(StoreRole::Coordinator), ["s3:GetObject", "s3:PutObject", "s3:ListBucket"]);
        let objects = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"];
        let bucket = ["s3:ListBucket", "s3:ListBucketMultipartUploads"];
        assert_eq!(of(StoreRole::Ci), [&objects[..], &bucket].concat());
        let history: Vec<_> =
            StoreRole::Coordinator.permissions().into_iter().filter(|it| it.subject == Subject::History).collect();
        assert_eq!(history, [Permission { subject: Subject::History, action: "s3:PutObject" }]);
    }
}
