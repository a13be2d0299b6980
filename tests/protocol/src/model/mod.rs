//! The model check: every way in which a small fleet can go, within a budget of faults.
//!
//! A state is a fleet of the product's own participants and coordinators around a Consul that is a value ([`store`]).
//! The checker ([stateright](https://docs.rs/stateright)) takes each possible action in each reachable state, and checks
//! the invariants: those of steps after each action, and those of states once in each state. From a sample of the states
//! it also checks that the fleet converges if nothing else goes wrong. A [`Scope`] sets the number of nodes and the budget
//! of each fault.
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
mod shared;
mod step;
mod store;

use stateright::{Model, Property};

use self::fleet::Fleet;
use self::reached::Reached;
use self::scope::Scope;
use self::step::Action;

/// A scope under exploration.
#[derive(Debug)]
struct Exploration {
    scope: Scope,
    reached: Reached,
}

impl Model for Exploration {
    type State = Fleet;
    type Action = Action;

    fn init_states(&self) -> Vec<Fleet> {
        vec![Fleet::new(&self.scope)]
    }

    fn actions(&self, state: &Fleet, actions: &mut Vec<Action>) {
        self.reached.note(&self.scope, state);
        if state.fault().is_none() {
            state.actions(&self.scope, actions);
        }
    }

    fn next_state(&self, state: &Fleet, action: Action) -> Option<Fleet> {
        state.after(action, &self.scope)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let [safe, rests] = ALWAYS;
        vec![
            Property::always(safe, |_: &Self, fleet: &Fleet| fleet.fault().is_none()),
            Property::always(rests, |model: &Self, fleet: &Fleet| {
                !fleet.draw().is_multiple_of(CALM_EVERY) || fleet.check_calm(&model.scope).is_ok()
            }),
        ]
    }
}

/// The properties of every state.
const ALWAYS: [&str; 2] = ["is safe", "comes to a good rest"];
/// One in so many states is brought to rest: that costs a hundred times more than reaching it.
const CALM_EVERY: u64 = 50;
