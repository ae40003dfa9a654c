//! A session's history, and what the model says of it.

use crate::{
    checker::{Refused, Specification, Timed, check},
    model::{Answer, Change, Held, Millis, Model, Rules, Scope, SessionNumber, Shown, Why},
};

/// What a client did, with the answer it got.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub session: SessionNumber,
    /// The moment that the engine took for now.
    pub now: Millis,
    pub deed: Deed,
    pub answer: Answer,
    /// The latest moment of a cleanup that had begun before the answer came.
    pub swept: Millis,
}

#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// Always the first of a history: nobody else knows the session yet.
    Create(Change),
    Resolve {
        held: Held,
        peek: bool,
    },
    /// A Resolve that found the session gone and made another one. Why it was
    /// gone is not in the answer.
    Replace {
        held: Held,
    },
    Touch(Held),
    Write(Held, Change),
    Destroy(Held),
    /// By id, if it is this principal's; by id alone if none is named.
    Revoke(SessionNumber, Option<String>),
}

/// The situations that a search for one session may look at.
const BOUND: usize = 200_000;

/// Whether some order of the events explains their answers.
pub(crate) fn explain(rules: &Rules, history: Vec<Timed<Event>>) -> Result<usize, Refused> {
    check(&OneSession { rules }, history, BOUND)
}

struct OneSession<'r> {
    rules: &'r Rules,
}

impl Specification for OneSession<'_> {
    type Operation = Event;
    /// With the one session, or none after its end.
    type State = Model;

    fn initial(&self) -> Model {
        Model::default()
    }

    fn follow(&self, model: &Model, event: &Event) -> Vec<Model> {
        let mut follow = Vec::new();
        follow.extend(self.apply(model.clone(), event));
        // A cleanup may have come between. That happens to an operation that
        // read an early moment and then waited, too.
        if !model.due(event.swept).is_empty() {
            follow.extend(self.apply(Model::default(), event));
        }
        follow.dedup();
        follow
    }
}

impl OneSession<'_> {
    /// The state after the event, if the model gives the same answer.
    fn apply(&self, mut model: Model, event: &Event) -> Option<Model> {
        let (rules, now) = (self.rules, event.now);
        let expected = match &event.deed {
            Deed::Create(change) => model.create(rules, now, event.session, change),
            Deed::Resolve { held, peek } => model.resolve(rules, now, &shown(*held), *peek),
            Deed::Replace { held } => {
                let absent = model.resolve(rules, now, &shown(*held), false);
                let creates = matches!(absent, Answer::Absent(why) if why != Why::JustSuperseded);
                return creates.then_some(model);
            }
            Deed::Touch(held) => model.touch(rules, now, &shown(*held)),
            Deed::Write(held, change) => model.write(rules, now, &shown(*held), change),
            Deed::Destroy(held) => model.destroy(rules, now, &shown(*held), Scope::This),
            Deed::Revoke(number, principal) => {
                model.revoke(rules, now, principal.as_deref(), Some(&[*number]))
            }
        };
        (expected == event.answer).then_some(model)
    }
}

fn shown(held: Held) -> Shown {
    Shown { held: vec![held], why: Why::NotFound }
}
