//! The keys of a configuration file. Everything is optional here, because a drop-in may set a single key.
//!
//! A value that is invalid by itself (a time span without unit, a node name with a blank) is refused while the file is read,
//! so that the error has its line. Checks that involve several keys follow after merging.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::events::{EventKind, NotifyKind};
use super::globs::Globs;
use super::values::{Delay, Size, Span};
use crate::plan::unpack::LinkPolicy;
use crate::plan::verify::Verify;
use crate::protocol::ids::{Node, Unit};
use crate::protocol::record::AbsentNodes;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fragment {
    pub(super) node: Option<Node>,
    #[serde(default)]
    pub(super) consul: ConsulFragment,
    #[serde(default)]
    pub(super) store: StoreFragment,
    #[serde(default)]
    pub(super) api: ApiFragment,
    #[serde(default)]
    pub(super) cache: CacheFragment,
    #[serde(default)]
    pub(super) fetch: FetchFragment,
    #[serde(default)]
    pub(super) deploy: BTreeMap<Unit, UnitFragment>,
    #[serde(default)]
    pub(super) notify: BTreeMap<String, NotifyFragment>,
    pub(super) chat: Option<ChatFragment>,
    #[serde(default)]
    pub(super) signatures: SignaturesFragment,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsulFragment {
    pub(super) address: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) token_file: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreFragment {
    pub(super) url: Option<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) force_path_style: Option<bool>,
    pub(super) sweep_every: Option<Span>,
    pub(super) keep_builds: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiFragment {
    pub(super) listen: Option<String>,
    pub(super) public_url: Option<String>,
    pub(super) compare_url: Option<String>,
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    pub(super) tls_cert_file: Option<String>,
    pub(super) tls_key_file: Option<String>,
    pub(super) plain_http: Option<bool>,
    pub(super) proxy: Option<ProxyFragment>,
    #[serde(default)]
    pub(super) users: BTreeMap<String, UserFragment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyFragment {
    #[serde(default)]
    pub(super) from: Vec<String>,
    pub(super) user_header: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserFragment {
    pub(super) token_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CacheFragment {
    pub(super) dir: Option<String>,
    pub(super) budget: Option<Size>,
    pub(super) min_free: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FetchFragment {
    pub(super) bandwidth: Option<Size>,
    pub(super) parallel: Option<u32>,
    pub(super) spread: Option<Delay>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnitFragment {
    pub(super) deploy_to: Option<String>,
    pub(super) repo: Option<String>,
    pub(super) branches: Option<Globs>,
    pub(super) require_profile: Option<String>,
    pub(super) require_attribution: Option<bool>,
    pub(super) links: Option<LinkPolicy>,
    pub(super) require_signature: Option<bool>,
    pub(super) prefetch: Option<Globs>,
    pub(super) max_staged: Option<u32>,
    pub(super) staged_budget: Option<Size>,
    pub(super) service: Option<String>,
    pub(super) keep_releases: Option<u32>,
    pub(super) releases_budget: Option<Size>,
    pub(super) keep_failed: Option<u32>,
    pub(super) verify: Option<Verify>,
    #[serde(default)]
    pub(super) linked_dirs: Vec<String>,
    #[serde(default)]
    pub(super) linked_files: Vec<String>,
    pub(super) coordinate: Option<bool>,
    pub(super) prepare_timeout: Option<Span>,
    pub(super) switch_timeout: Option<Span>,
    pub(super) revert_timeout: Option<Span>,
    pub(super) absence_grace: Option<Span>,
    pub(super) absent_nodes: Option<AbsentNodes>,
    pub(super) min_nodes: Option<u32>,
    #[serde(default)]
    pub(super) hooks: HooksFragment,
    #[serde(default)]
    pub(super) secret_env: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HooksFragment {
    pub(super) prepare: Option<HookFragment>,
    pub(super) switched: Option<HookFragment>,
    pub(super) check: Option<HookFragment>,
    pub(super) reverted: Option<HookFragment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HookFragment {
    pub(super) command: Option<Vec<String>>,
    pub(super) timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignaturesFragment {
    #[serde(default)]
    pub(super) keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotifyFragment {
    pub(super) kind: Option<NotifyKind>,
    pub(super) url_file: Option<String>,
    pub(super) secret_file: Option<String>,
    pub(super) token_file: Option<String>,
    pub(super) events: Option<BTreeSet<EventKind>>,
    pub(super) units: Option<Globs>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChatFragment {
    pub(super) signing_secret_file: Option<String>,
    #[serde(default)]
    pub(super) users: BTreeMap<String, ChatUserFragment>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChatUserFragment {
    pub(super) name: Option<String>,
    pub(super) token_file: Option<String>,
}
