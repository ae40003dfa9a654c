//! The history of a session, and whether the model explains it.

use crate::{
    checker::{Refused, Specification, Timed, check},
    model::{Answer, Change, Held, Millis, Model, Rules, Scope, SessionNumber, Shown, Why},
};

/// An operation of a client with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub session: SessionNumber,
    /// The current time that the engine used.
    pub now: Millis,
    pub deed: Deed,
    pub answer: Answer,
    /// The latest time of a cleanup that had begun before the answer.
    pub swept: Millis,
}

#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// Always the first event of a history: nobody else knows the session yet.
    Create(Change),
    Resolve {
        held: Held,
        peek: bool,
    },
    /// A Resolve that found the session gone and created another one. The answer does not say
    /// why the first one was gone.
    Replace {
        held: Held,
    },
    /// May set the session's own duration.
    Touch(Held, Option<Millis>),
    Write(Held, Change),
    Destroy(Held),
    /// By id, if it belongs to this principal; by id alone if no principal is given.
    Revoke(SessionNumber, Option<String>),
}

/// How many situations the search for one session may examine.
const BOUND: usize = 200_000;

/// Returns whether some order of the events explains their answers.
pub(crate) fn explain(rules: &Rules, history: Vec<Timed<Event>>) -> Result<usize, Refused> {
    check(&OneSession { rules }, history, BOUND)
}

struct OneSession<'r> {
    rules: &'r Rules,
}

impl Specification for OneSession<'_> {
    type Operation = Event;
    /// The model with the one session, or with none after its end.
    type State = Model;

    fn initial(&self) -> Model {
        Model::default()
    }

    fn follow(&self, model: &Model, event: &Event) -> Vec<Model> {
        let mut follow = Vec::new();
        follow.extend(self.apply(model.clone(), event));
        // A cleanup may have run in between. It may also have run during an operation that read
        // the time early and then waited.
        if !model.due(event.swept).is_empty() {
            follow.extend(self.apply(Model::default(), event));
        }
        follow.dedup();
        follow
    }
}

impl OneSession<'_> {
    /// Returns the next state if the model gives the same answer.
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
            Deed::Touch(held, duration) => model.touch(rules, now, &shown(*held), *duration),
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
