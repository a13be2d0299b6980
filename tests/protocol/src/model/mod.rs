//! The model check: every way in which a small fleet can go, within a budget of faults.
//!
//! A state is a fleet of the product's own participants and coordinators around a Consul that is a value
//! ([`store`]). The checker ([stateright](https://docs.rs/stateright)) takes each action that is possible in each
//! state that can be reached, and looks at the invariants of `tests/protocol/src/invariant.rs` after every one of them; and,
//! in every state, whether the fleet would come to a good rest if nothing else went wrong. A [`Scope`] says how many
//! nodes there are and how often what may go wrong.
//!
//! Outside of it: more than four nodes, wall clocks, more than one place in the log per read of a coordinator, the
//! disk below "complete or not", bytes of records, Consul's own faults. The simulator, the tests of the disk, and the
//! fault matrix have those.

mod check;
pub(crate) mod command;
mod coordinate;
mod fleet;
mod participate;
mod reached;
mod report;
mod scope;
mod step;
mod store;

use stateright::{Model, Property};

use self::fleet::Fleet;
use self::scope::Scope;
use self::step::Action;

impl Model for Scope {
    type State = Fleet;
    type Action = Action;

    fn init_states(&self) -> Vec<Fleet> {
        vec![Fleet::new(self)]
    }

    fn actions(&self, state: &Fleet, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            state.actions(self, actions);
        }
    }

    fn next_state(&self, state: &Fleet, action: Action) -> Option<Fleet> {
        state.after(action, self)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let [safe, rests] = ALWAYS;
        let always = [
            Property::always(safe, |_: &Self, fleet: &Fleet| fleet.broken.is_none()),
            Property::always(rests, |scope: &Self, fleet: &Fleet| {
                !fleet.draw().is_multiple_of(CALM_EVERY) || fleet.check_calm(scope).is_ok()
            }),
        ];
        let sometimes = reached::ALL.into_iter().map(|(name, is_so)| Property::sometimes(name, is_so));
        always.into_iter().chain(sometimes).collect()
    }
}

/// What holds in every state.
const ALWAYS: [&str; 2] = ["is safe", "comes to a good rest"];
/// Every how manieth state is brought to rest: that costs a hundred times more than to reach it.
const CALM_EVERY: u64 = 50;
