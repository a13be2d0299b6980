//! From a call to its answer: who asks, with which token, and what came of it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

use super::command::{Asked, Command};
use super::reply::Reply;
use super::signature::{Replays, verify};
use crate::config::{ChatSettings, ChatUser};
use crate::consul::Secret;
use crate::control::operate::Author;
use crate::control::{Access, Code, Failure, Witness, operate, read, request};
use crate::protocol::ids::{Epoch, Unit};
use crate::protocol::record::{Identity, Means, Request, Wanted};

/// How long Consul may take. Slack shows an error to the user after 3 s.
const ANSWER_LIMIT: Duration = Duration::from_millis(2_500);

/// What chat asks through, as the record says it.
const VIA: &str = "chat";

/// Deploys from chat, for as long as an agent serves them.
#[derive(Debug)]
pub struct Chat {
    settings: ChatSettings,
    replays: Mutex<Replays>,
}

impl Chat {
    /// As the settings say.
    #[must_use]
    pub fn new(settings: ChatSettings) -> Self {
        Self { settings, replays: Mutex::default() }
    }
}

/// What chat needs of whoever serves it.
pub trait Surroundings: Sync {
    /// Consul with the rights of this token, and of no other.
    ///
    /// # Errors
    ///
    /// Settings that no client can be made of.
    fn access(&self, token: Secret) -> Result<Access, Failure>;

    /// Who vouches for this identity's one write.
    fn witness(&self, identity: Identity) -> Arc<dyn Witness>;
}

/// Who asks, with the token that acts.
struct Delegate {
    /// Whose write is vouched for.
    access: Access,
    author: Author,
}

/// Answers a call of Slack's within 3 s.
///
/// # Cancel safety
///
/// Not safe: a cancelled call may have asked, or ask yet.
pub async fn answer(
    chat: &Chat,
    surroundings: &impl Surroundings,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Reply {
    let secret = match secret_in(&chat.settings.signing_secret_file).await {
        Ok(secret) => secret,
        Err(error) => {
            tracing::error!(error = %error.chain(), "chat cannot be answered");
            return Reply::broken();
        }
    };
    let admitted = verify(&secret, headers, body, now)
        .and_then(|signed| chat.replays.lock().unwrap_or_else(PoisonError::into_inner).admit(signed, now));
    if let Err(why) = admitted {
        tracing::warn!(%why, "a call of chat is not answered");
        return Reply::rejected(why);
    }
    let asked = Asked::parse(body);
    if asked.command == Command::SslCheck {
        return Reply::empty();
    }
    let Some(user) = chat.settings.users.get(&asked.user) else {
        tracing::warn!(user = ?asked.user, "a user of the chat is not in the settings");
        return Reply::unknown(&asked.user);
    };
    let unit = match &asked.command {
        Command::Help { problem } => return Reply::help(&asked, problem),
        Command::SslCheck => return Reply::empty(),
        Command::Abort { unit }
        | Command::Deploy { unit, .. }
        | Command::Rollback { unit, .. }
        | Command::Status { unit } => unit,
    };
    match tokio::time::timeout(ANSWER_LIMIT, carry_out(surroundings, &asked, unit, user)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(failure)) => {
            tracing::info!(%unit, by = %user.name, why = %failure.chain(), "chat has asked, and nothing was done");
            Reply::failed(unit, &user.name, &failure)
        }
        Err(_) => Reply::late(&asked, unit),
    }
}

async fn carry_out(
    surroundings: &impl Surroundings,
    asked: &Asked,
    unit: &Unit,
    user: &ChatUser,
) -> Result<Reply, Failure> {
    let access = surroundings.access(secret_in(&user.token_file).await?)?;
    let wanted = match &asked.command {
        Command::Status { .. } => return Ok(Reply::status(&read::status(&access, unit).await?)),
        Command::Deploy { reference, .. } => Some(Wanted::Deploy(reference.clone())),
        Command::Rollback { to, .. } => Some(Wanted::Rollback(to.clone())),
        Command::Abort { .. } | Command::Help { .. } | Command::SslCheck => None,
    };
    let who = Delegate::new(surroundings, access, user).await?;
    let (epoch, what) = match wanted {
        Some(wanted) => {
            let what = match &wanted {
                Wanted::Deploy(selector) => format!("a deploy of {selector}"),
                Wanted::Rollback(None) => "a rollback".to_owned(),
                Wanted::Rollback(Some(artifact)) => format!("a rollback to {artifact}"),
            };
            (who.ask(unit, wanted).await?, what)
        }
        None => (who.abort(unit).await?, "the end of the deploy that runs".to_owned()),
    };
    tracing::info!(%unit, %epoch, by = %user.name, what, "asked from chat");
    Ok(Reply::asked(asked, unit, &what, &user.name, epoch))
}

impl Delegate {
    async fn new(surroundings: &impl Surroundings, access: Access, user: &ChatUser) -> Result<Self, Failure> {
        // Where Consul runs without ACLs there is nobody to name.
        let token = access.kv.client().token_self().await?;
        let (accessor, token) = token.map_or((None, String::new()), |it| (Some(it.accessor_id), it.description));
        let name = user.name.clone();
        let id = uuid::Uuid::now_v7().to_string();
        let author = Author { by: name.clone(), via: VIA.to_owned(), reason: String::new(), id };
        let witness = surroundings.witness(Identity { name, means: Means::Chat, accessor, token });
        Ok(Self { access: access.witnessed(witness), author })
    }

    async fn ask(self, unit: &Unit, wanted: Wanted) -> Result<Epoch, Failure> {
        let Author { by, via, reason, id } = self.author;
        let request = Request { wanted, by, via, reason, id, force: false, again: false };
        request::write(&self.access, unit, &request, None).await
    }

    async fn abort(self, unit: &Unit) -> Result<Epoch, Failure> {
        operate::abort(&self.access, unit, &self.author).await
    }
}

/// The one line of a file that holds a secret.
async fn secret_in(path: &Path) -> Result<Secret, Failure> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| Failure::new(Code::Failed, format!("{} cannot be read", path.display())).caused_by(error))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::new(Code::Failed, format!("{} is empty", path.display())));
    }
    Ok(Secret::new(text))
}
