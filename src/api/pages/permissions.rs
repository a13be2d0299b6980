//! The actions that the caller may not take in a unit, according to Consul's ACLs.

use crate::control::Access;
use crate::control::rights::{Lacking, lacking, of_deployer};
use crate::protocol::ids::{App, Unit};
use crate::ui::{Denials, Viewer};

/// The actions that the caller may not take in `unit`. Empty if Consul does not answer, because Consul itself refuses the
/// write later.
pub(super) async fn in_unit(access: &Access, unit: &Unit, viewer: &Viewer) -> Denials {
    if *viewer == Viewer::Everybody {
        return Denials::default();
    }
    let Ok(Lacking::These(missing)) = lacking(access.kv.client(), &of_deployer(&access.keys, unit)).await else {
        return Denials::default();
    };
    let keys = access.keys.unit(unit);
    let marks = access.keys.bad_marks(&unit.app);
    let why = |what: &str, takes: &dyn Fn(&str) -> bool| {
        let right = missing.iter().find(|right| takes(&right.name))?;
        Some(match viewer {
            Viewer::Person(_) => format!("your token may not {what}: it lacks {right}"),
            Viewer::Anonymous | Viewer::Everybody | Viewer::Unknown => {
                format!("sign in to {what}: a token with {right} is needed")
            }
        })
    };
    Denials {
        deploy: why("deploy", &|name| name == keys.deploy()),
        abort: why("abort", &|name| name == keys.abort()),
        freeze: why("freeze", &|name| name == keys.freeze()),
        mark: why("mark builds", &|name| name.starts_with(&marks)),
    }
}

/// The reason why the caller may not mark builds of `app`; none if they may. Marks belong to the app, so any group of the app
/// gives the answer.
pub(super) async fn to_mark(access: &Access, app: &App, units: &[Unit], viewer: &Viewer) -> Option<String> {
    let unit = units.iter().find(|unit| unit.app == *app)?;
    in_unit(access, unit, viewer).await.mark
}
