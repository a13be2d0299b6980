//! Reads the secret key of `publish --sign`, and its password.
//!
//! The password comes from a file, else from a variable, else from the person at the terminal. It is asked for only where
//! somebody can type it: a job in CI must end, not wait.
//!
//! Reading may be dropped at any time, for example upon Ctrl-C: what is typed is shown again then.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::thread;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use crate::cli::args::Publish;
use crate::cli::output;
use crate::control::{Code, Failure};
use crate::signing::{SecretKey, SecretKeyFile};

/// The variable with the password of an encrypted key.
const PASSWORD_VARIABLE: &str = "CUTOVER_SIGN_PASSWORD";
/// The most bytes of the key's or password's file that are read. A key takes about 270.
const MAX_FILE_BYTES: u64 = 4096;
/// What to do where nobody can be asked for the password.
const HOW_TO_OPEN: &str =
    "set CUTOVER_SIGN_PASSWORD or --sign-password-file, or use a key without a password, made by `minisign -GW`";

/// The key of `--sign`, opened; none without that flag.
///
/// # Errors
///
/// Exit code 1 if the key cannot be read or opened, 2 if it needs a password that is not given.
pub(crate) async fn read(args: &Publish) -> Result<Option<SecretKey>, Failure> {
    let Some(path) = &args.sign else { return Ok(None) };
    let unusable = || Failure::new(Code::Failed, format!("cannot sign with {}; nothing was published", path.display()));
    let of = path.clone();
    let text = on_thread(move || contents(&of)).await?.map_err(|error| unusable().caused_by(error))?;
    match SecretKeyFile::parse(&text).map_err(|error| unusable().caused_by(error))? {
        SecretKeyFile::Plain(key) => Ok(Some(key)),
        SecretKeyFile::Encrypted(key) => {
            let password = password(path, args.sign_password_file.as_deref()).await?;
            output::say("opening the key with its password");
            let opened = on_thread(move || key.open(&password)).await?;
            opened.map(Some).map_err(|error| unusable().caused_by(error))
        }
    }
}

/// Runs work that blocks on a thread that nothing waits for: a read from the terminal ends with the process at the latest.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let (sender, result) = oneshot::channel();
    // Nobody receives the result of work that was interrupted.
    thread::Builder::new().spawn(move || drop(sender.send(work())))?;
    result.await.map_err(|error| Failure::new(Code::Failed, "reading the key failed").caused_by(error))
}

async fn password(key: &Path, file: Option<&Path>) -> Result<String, Failure> {
    if let Some(file) = file {
        let failed = |error| {
            Failure::new(Code::Failed, format!("cannot read the password from {}", file.display())).caused_by(error)
        };
        let of = file.to_owned();
        return Ok(on_thread(move || contents(&of)).await?.map_err(failed)?.trim_end_matches(['\n', '\r']).to_owned());
    }
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    if !(io::stdin().is_terminal() && output::talks_to_terminal()) {
        let what = format!("{} needs a password, and nobody can be asked for it here", key.display());
        return Err(Failure::new(Code::Usage, what).hint(HOW_TO_OPEN));
    }
    let typed = {
        // Before the question: hiding discards what was typed already.
        let _hidden = Hidden::begin()?;
        output::ask(&format!("Password of {}: ", key.display()))?;
        let read = || {
            let mut typed = String::new();
            io::stdin().read_line(&mut typed).map(|_| typed)
        };
        on_thread(read).await?
    };
    // The line end that was typed is not shown either.
    output::say("");
    Ok(typed?.trim_end_matches(['\n', '\r']).to_owned())
}

fn contents(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Hides what is typed, until it is dropped.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // The terminal may be gone by now; then nothing is typed there any more.
        let _restored = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
