//! Parses a slash command from Slack's form. Pure.
//!
//! <https://api.slack.com/interactivity/slash-commands#app_command_handling>

use crate::protocol::ids::{ArtifactName, Unit};
use crate::protocol::record::{InvalidRequest, Selector};

/// The name that the help shows if Slack sends none.
const USUAL_NAME: &str = "/deploy";
/// The longest name of a command that is repeated in an answer, in bytes. Slack allows 32.
const LONGEST_NAME_BYTES: usize = 64;

/// A parsed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The chat's id of the user, `U024BE7LH`; empty where the form has none.
    pub(crate) user: String,
    /// The slash command as typed, `/deploy`.
    pub(crate) name: String,
    pub(crate) command: Command,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `abort shop/production`
    Abort { unit: Unit },
    /// `shop/production master`
    Deploy { unit: Unit, reference: Selector },
    /// A request for help, or text that is not a command.
    Help {
        /// What is wrong with the text; empty for a request for help.
        problem: String,
    },
    /// `rollback shop/production [artifact]`
    Rollback {
        unit: Unit,
        /// The target build; none: the newest release that was deployed before.
        to: Option<ArtifactName>,
    },
    /// Slack checks the address; there is no user.
    SslCheck,
    /// `status shop/production`
    Status { unit: Unit },
}

impl Asked {
    /// Parses the form. Text that is not a command becomes [`Command::Help`].
    #[must_use]
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut asked = Self {
            user: String::new(),
            name: USUAL_NAME.to_owned(),
            command: Command::Help { problem: String::new() },
        };
        let mut text = String::new();
        let mut is_ssl_check = false;
        for (key, value) in url::form_urlencoded::parse(body) {
            match key.as_ref() {
                "user_id" => asked.user = value.into_owned(),
                "command" if value.starts_with('/') && value.len() <= LONGEST_NAME_BYTES => {
                    asked.name = value.into_owned();
                }
                "text" => text = value.into_owned(),
                "ssl_check" => is_ssl_check = value == "1",
                _ => {}
            }
        }
        asked.command = if is_ssl_check {
            Command::SslCheck
        } else {
            Command::parse(&text).unwrap_or_else(|invalid| Command::Help { problem: invalid.to_string() })
        };
        asked
    }
}

impl Command {
    fn parse(text: &str) -> Result<Self, InvalidRequest> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let unit = |text: &str| text.parse::<Unit>();
        match words.as_slice() {
            [] | ["help"] => Ok(Self::Help { problem: String::new() }),
            ["abort", of] => Ok(Self::Abort { unit: unit(of)? }),
            ["status", of] => Ok(Self::Status { unit: unit(of)? }),
            ["rollback", of] => Ok(Self::Rollback { unit: unit(of)?, to: None }),
            ["rollback", of, to] => Ok(Self::Rollback { unit: unit(of)?, to: Some(to.parse::<ArtifactName>()?) }),
            [of, reference] if of.contains('/') => {
                Ok(Self::Deploy { unit: unit(of)?, reference: Selector::parse(reference)? })
            }
            _ => Err("unknown command".to_owned().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Command {
        let text: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let asked = Asked::parse(format!("user_id=U024BE7LH&command=%2Fship&text={text}").as_bytes());
        assert_eq!((asked.user.as_str(), asked.name.as_str()), ("U024BE7LH", "/ship"));
        asked.command
    }

    #[test]
    fn commands_are_parsed() {
        let unit: Unit = "shop/production".parse().unwrap();
        let deploy = Command::Deploy { unit: unit.clone(), reference: Selector::parse("master").unwrap() };
        assert_eq!(command("shop/production master"), deploy);
        assert_eq!(command("  shop/production\tmaster "), deploy);
        assert_eq!(command("rollback shop/production"), Command::Rollback { unit: unit.clone(), to: None });
        let to = Some("master-15e9f13a".parse().unwrap());
        assert_eq!(command("rollback shop/production master-15e9f13a"), Command::Rollback { unit: unit.clone(), to });
        assert_eq!(command("abort shop/production"), Command::Abort { unit: unit.clone() });
        assert_eq!(command("status shop/production"), Command::Status { unit });
        assert_eq!(Asked::parse(b"ssl_check=1&token=x").command, Command::SslCheck);
    }

    #[test]
    fn other_text_is_answered_with_help() {
        for text in ["", "help"] {
            assert_eq!(command(text), Command::Help { problem: String::new() });
        }
        for text in [
            "shop/production",
            "shop/production master now",
            "abort",
            "abort shop",
            "status shop/builds",
            "rollback shop/production a/b",
            "deploy shop",
            "shop/production -rf",
            "shop/production commit:xyz",
            "shop/../x master",
            "freeze shop/production",
            "\u{0}",
        ] {
            let Command::Help { problem } = command(text) else { panic!("{text:?} was understood") };
            assert!(!problem.is_empty(), "{text:?}");
        }
        assert_eq!(Asked::parse(b"\xff&&=&text").user, "");
    }
}
