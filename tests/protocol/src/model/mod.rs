//! The model check: every way in which a small fleet can go, within a budget of faults.
//!
//! A state is a fleet of the product's own participants and coordinators around a Consul that is a value ([`store`]).
//! The checker ([stateright](https://docs.rs/stateright)) takes each possible action in each reachable state, and checks
//! the invariants after each one. From a sample of the states it also checks that the fleet converges if nothing else
//! goes wrong. A [`Scope`] sets the number of nodes and the budget of each fault.
//!
//! Non-goals: more than four nodes, wall clocks, reads of a coordinator at more than one index, the disk below "complete
//! or not", bytes of records, and Consul's own faults. The simulator, the tests of the disk and the fault matrix have
//! those.

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

/// The properties of every state.
const ALWAYS: [&str; 2] = ["is safe", "comes to a good rest"];
/// One in so many states is brought to rest: that costs a hundred times more than reaching it.
const CALM_EVERY: u64 = 50;
