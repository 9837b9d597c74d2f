//! The events of one answer on their way, counted. In: the events of a call or of a cached answer. Out: each with what it
//! adds, and last the whole, which for a call is then settled and kept. A call that is dropped before its end is settled
//! with what came until then.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::backend::BackendError;
use super::call::{Call, Whole};
use super::completion::{self, Assembler, Chunk, CompletionError, Conformer};
use super::json;
use super::pricing::NanoUsd;
use super::settlement::Usage;

/// Events of a chat completion: the `data` of each, `[DONE]` left out.
type Events = BoxStream<'static, Result<Bytes, BackendError>>;

/// Who is told a stream: in OpenAI's form it differs for those who asked for the usage and those who did not.
#[derive(Clone, Copy)]
pub(super) enum Readers {
    /// One request.
    One {
        /// Whether it asked for the usage.
        include_usage: bool,
    },
    /// Whoever comes.
    Any,
}

/// One event.
pub(super) struct Delta {
    /// As those get it who asked for the usage.
    with_usage: Option<Bytes>,
    /// As the others do. Mostly the same bytes.
    without_usage: Option<Bytes>,
    /// Bytes of its data, as it came.
    pub(super) bytes: usize,
    /// What it adds.
    pub(super) chunk: Chunk,
    /// What the answer cost so far, in the event that reports its usage.
    pub(super) cost: Option<NanoUsd>,
}

impl Delta {
    /// The data for who asked for the usage, or did not; None when it gets nothing of this event.
    pub(super) fn told(&self, include_usage: bool) -> Option<&Bytes> {
        if include_usage { self.with_usage.as_ref() } else { self.without_usage.as_ref() }
    }
}

/// A whole answer, once all its events have come.
pub(super) struct Total {
    /// Text of choice 0.
    pub(super) text: String,
    /// `finish_reason` of choice 0.
    pub(super) finish_reason: Option<String>,
    /// What was reported.
    pub(super) usage: Option<Usage>,
    /// What it cost, when known.
    pub(super) cost: Option<NanoUsd>,
    /// The data of a chunk with the usage, where those who asked for one have had none.
    pub(super) owed: Option<Bytes>,
    /// The fallback whose answer it is; None: the asked model's.
    pub(super) fallback: Option<Arc<str>>,
    /// The plain answer that says the same. None where no plain one can, and where nobody can want it.
    completion: Option<Bytes>,
}

impl Total {
    /// The same as a plain answer. The backend's id of the call was told when the stream began.
    pub(super) fn whole(&self) -> Option<Arc<Whole>> {
        let completion = self.completion.clone()?;
        let read = completion::read(&completion).ok()?;
        Some(Arc::new(Whole {
            completion,
            read,
            cost: self.cost,
            request_id: None,
            fallback: self.fallback.clone(),
            known: false,
        }))
    }
}

/// What comes next.
pub(super) enum Step {
    /// An event.
    Delta(Arc<Delta>),
    /// Nothing more: the answer is complete.
    End(Arc<Total>),
    /// Nothing more: it is not.
    Failed(BackendError),
}

/// Events on their way.
pub(super) struct Tally {
    /// None for a cached answer: there is nothing to settle and to keep.
    call: Option<Box<Call>>,
    events: Events,
    assembler: Assembler,
    with_usage: Option<Conformer>,
    without_usage: Option<Conformer>,
    ended: bool,
}

impl Tally {
    /// The events of a call.
    pub(super) fn of_call(call: Box<Call>, events: Events) -> Self {
        let readers = call.readers;
        Self::new(Some(call), events, readers)
    }

    fn new(call: Option<Box<Call>>, events: Events, readers: Readers) -> Self {
        let conformer = |include_usage| match readers {
            Readers::One { include_usage: wanted } if wanted != include_usage => None,
            _ => Some(Conformer::new(include_usage)),
        };
        let (with_usage, without_usage) = (conformer(true), conformer(false));
        Self { call, events, assembler: Assembler::new(), with_usage, without_usage, ended: false }
    }

    /// A cached answer as a stream, with an id of its own.
    pub(super) fn replayed(completion: &Bytes, include_usage: bool) -> Result<Self, BackendError> {
        let id = format!("chatcmpl-{}", uuid::Uuid::new_v4().simple());
        let created = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let replay = completion::chunks(completion, &id, created)?;
        let events = futures::stream::iter(replay.chunks.into_iter().chain(replay.usage).map(Ok)).boxed();
        Ok(Self::new(None, events, Readers::One { include_usage }))
    }

    /// The next step; none follows the end or a failure. May be given up and asked again.
    pub(super) async fn next(&mut self) -> Step {
        let step = match self.events.next().await {
            Some(Ok(data)) => self.pass(&data).map(|delta| Step::Delta(Arc::new(delta))),
            Some(Err(error)) => Err(error),
            None => self.finish().map(|total| Step::End(Arc::new(total))),
        };
        step.unwrap_or_else(|error| {
            self.settle();
            if let Some(call) = &mut self.call {
                call.ended(error.label());
            }
            Step::Failed(error)
        })
    }

    fn pass(&mut self, data: &Bytes) -> Result<Delta, BackendError> {
        let object = json::object(data).map_err(|_| CompletionError::Not(completion::CHUNK))?;
        if object.non_null("error").is_some() {
            return Err(BackendError::Broken("it reported an error in its stream".to_owned()));
        }
        let chunk = self.assembler.add(&object)?;
        let cost = if chunk.usage_only { self.cost() } else { None };
        let conformed = |conformer: &mut Option<Conformer>| {
            let told = conformer.as_mut()?.chunk(data, &object, &chunk)?;
            Some(match told {
                Cow::Borrowed(_) => data.clone(),
                Cow::Owned(told) => Bytes::from(told),
            })
        };
        let with_usage = conformed(&mut self.with_usage);
        let without_usage = conformed(&mut self.without_usage);
        Ok(Delta { with_usage, without_usage, bytes: data.len(), chunk, cost })
    }

    /// The chunk of the usage that those who asked for it have not had: some backends put the usage into another.
    fn owed(&mut self) -> Option<Bytes> {
        self.with_usage.as_ref().filter(|conformer| conformer.owes_usage())?;
        let data = Bytes::from(self.assembler.usage_chunk()?);
        self.pass(&data).ok()?.with_usage
    }

    fn cost(&mut self) -> Option<NanoUsd> {
        let usage = self.assembler.usage()?;
        self.call.as_mut()?.used(Some(usage), self.assembler.pieces())
    }

    /// All has come: settle and keep it.
    fn finish(&mut self) -> Result<Total, BackendError> {
        if !self.assembler.is_complete() {
            return Err(BackendError::Broken("the stream ended before a finish_reason".to_owned()));
        }
        let cost = self.settle();
        let owed = self.owed();
        let wanted = self.call.as_ref().is_some_and(|call| call.keep.is_some());
        let completion =
            (wanted && self.assembler.is_faithful()).then(|| Bytes::from(self.assembler.completion()));
        if let Some(call) = &mut self.call {
            call.answered(self.assembler.usage(), self.assembler.finish_reason());
            if let Some(completion) = &completion {
                call.store(completion);
            }
        }
        Ok(Total {
            text: self.assembler.text().to_owned(),
            finish_reason: self.assembler.finish_reason().map(str::to_owned),
            usage: self.assembler.usage(),
            cost,
            owed,
            fallback: self.call.as_ref().and_then(|call| call.fallback()),
            completion,
        })
    }

    /// Charges what was reported, or, when nothing was, the prompt and what was delivered.
    fn settle(&mut self) -> Option<NanoUsd> {
        self.ended = true;
        self.call.as_mut()?.used(self.assembler.usage(), self.assembler.pieces())
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.ended {
            self.settle();
        }
    }
}
