//! Reads the secret key of `publish --sign`, and its password.
//!
//! The password comes from a file, else from a variable, else from the person at the terminal. It is asked for only where
//! somebody can type it: a job in CI must end, not wait.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

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
    let Some(path) = args.sign.clone() else { return Ok(None) };
    let password_file = args.sign_password_file.clone();
    let reading = tokio::task::spawn_blocking(move || open(&path, password_file.as_deref()));
    let opened =
        reading.await.map_err(|error| Failure::new(Code::Failed, "reading the key failed").caused_by(error))?;
    opened.map(Some)
}

fn open(path: &Path, password_file: Option<&Path>) -> Result<SecretKey, Failure> {
    let unusable = || Failure::new(Code::Failed, format!("cannot sign with {}; nothing was published", path.display()));
    let text = contents(path).map_err(|error| unusable().caused_by(error))?;
    match SecretKeyFile::parse(&text).map_err(|error| unusable().caused_by(error))? {
        SecretKeyFile::Plain(key) => Ok(key),
        SecretKeyFile::Encrypted(key) => {
            let password = password(path, password_file)?;
            output::say("opening the key with its password");
            key.open(&password).map_err(|error| unusable().caused_by(error))
        }
    }
}

fn password(key: &Path, file: Option<&Path>) -> Result<String, Failure> {
    if let Some(file) = file {
        let failed = |error| {
            Failure::new(Code::Failed, format!("cannot read the password from {}", file.display())).caused_by(error)
        };
        return Ok(contents(file).map_err(failed)?.trim_end_matches(['\n', '\r']).to_owned());
    }
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    if !(io::stdin().is_terminal() && output::talks_to_terminal()) {
        let what = format!("{} needs a password, and nobody can be asked for it here", key.display());
        return Err(Failure::new(Code::Usage, what).hint(HOW_TO_OPEN));
    }
    output::ask(&format!("Password of {}: ", key.display()))?;
    let typed = {
        let _hidden = Hidden::begin()?;
        let mut typed = String::new();
        io::stdin().read_line(&mut typed).map(|_| typed)
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
