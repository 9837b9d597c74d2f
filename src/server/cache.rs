//! The exact-match cache. In: a request's members and what surrounds them, and complete answers. Out: a key, and the
//! answer of an equal request. This is the first level, in the pod's memory; the second is [`super::store::Store`]'s.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use serde::de::IgnoredAny;

use super::store::CacheKey;

/// What an entry takes beside its value: its key, its life, its place in tables and lists, and what the allocator rounds up. An
/// estimate, on the large side.
const ENTRY_OVERHEAD: usize = 256;
/// The cache has parts with a lock and a bound of their own. An answer that is larger than its part is not kept.
const PART_BYTES: u64 = 8 << 20;
/// Most parts: more need no lock less.
const PARTS: u64 = 16;
/// An answer of usual length with all that an entry takes. By it the cache knows how many keys to remember of answers that it
/// has let go; it may be wrong by far.
const USUAL_ENTRY: u64 = 2 << 10;
/// Life of an entry differs by up to this part, so that what was stored together does not expire together.
const JITTER: f64 = 0.1;
/// Rises when the same request must no longer find what an older server stored.
const KEY_CONTEXT: &str = "chatservice.dev 2026-11 answer cache key v4";
/// First bytes of a stored answer, with the version of the form.
const MAGIC: &[u8] = b"CSA1";
/// Members of a request that are not hashed as they stand: a stream and a plain request share an entry, and the model is
/// part of the scope.
const NOT_IN_THE_KEY: [&str; 3] = ["stream", "stream_options", "model"];

/// Whose answers a request may be given, and from where: equal requests of different places have different keys.
#[derive(Clone, Copy, Debug)]
pub struct KeyScope<'a> {
    /// The ChatService's uid.
    pub uid: &'a str,
    /// Whose answers they are, never empty; None: everybody's.
    pub scope: Option<&'a str>,
    /// Host of the backend, or `echo`.
    pub backend_host: &'a str,
    /// What is asked for: the same body can mean another thing elsewhere.
    pub operation: &'a str,
    /// The configured model that is asked, also where the request names none.
    pub model: &'a str,
    /// What the backend calls it: another one behind the same name gives other answers.
    pub upstream: &'a str,
    /// What the configuration changes in the request on its way there.
    pub rewriting: Rewriting<'a>,
}

/// The settings of a model by which an equal request becomes another one for the backend.
#[derive(Clone, Copy, Debug)]
pub struct Rewriting<'a> {
    /// Most tokens of an answer.
    pub max_output_tokens: Option<u32>,
    /// Whether a request without an output cap is given one.
    pub always_capped: bool,
    /// What the output cap is called.
    pub cap_field: &'a str,
    /// Members that are left out.
    pub omit: &'a [String],
}

/// The key of a request: its scope and every other top-level member but `stream` and `stream_options`, byte for byte and
/// in order. White space between members does not matter, since the slices do not hold it; the order of members and
/// everything inside their values does: two spellings of one request are two keys, never two requests one key.
#[must_use]
pub fn key<'a>(scope: KeyScope<'_>, members: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> CacheKey {
    let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    // Each part is led by its length, so that no two lists of parts are the same bytes.
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let KeyScope { uid, scope, backend_host, operation, model, upstream, rewriting } = scope;
    for place in [uid, scope.unwrap_or_default(), backend_host, operation, model, upstream] {
        part(place.as_bytes());
    }
    let Rewriting { max_output_tokens, always_capped, cap_field, omit } = rewriting;
    // No cap is no number of tokens.
    part(max_output_tokens.map(u32::to_le_bytes).as_ref().map_or(&[], |most| &most[..]));
    part(&[u8::from(always_capped)]);
    part(cap_field.as_bytes());
    part(&(omit.len() as u64).to_le_bytes());
    for member in omit {
        part(member.as_bytes());
    }
    for (name, value) in members {
        if !NOT_IN_THE_KEY.contains(&name) {
            part(name.as_bytes());
            part(value);
        }
    }
    CacheKey(*hasher.finalize().as_bytes())
}

/// A complete answer, as both levels keep it.
#[derive(Clone, PartialEq, Eq)]
pub struct CachedAnswer {
    /// The whole `chat.completion` object.
    pub completion: Bytes,
}

/// A length in place of the text: an answer is not for logs.
impl fmt::Debug for CachedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedAnswer").field("completion_bytes", &self.completion.len()).finish()
    }
}

impl CachedAnswer {
    /// The stored form: magic, which is also its version, and the completion.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        [MAGIC, &self.completion].concat().into()
    }

    /// Reads the stored form. What is not one, or holds anything but one JSON object, is None: a miss. What the store
    /// holds is not trusted.
    #[must_use]
    pub fn decode(stored: &Bytes) -> Option<Self> {
        let completion = stored.strip_prefix(MAGIC)?;
        let object = completion.first() == Some(&b'{')
            && serde_json::from_slice::<IgnoredAny>(completion).is_ok()
            && std::str::from_utf8(completion).is_ok();
        object.then(|| Self { completion: stored.slice_ref(completion) })
    }
}

/// The life of one entry: `ttl` ± 10 %. The same life goes to both levels.
#[must_use]
pub fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(rand::random_range(1.0 - JITTER..=1.0 + JITTER))
}

/// Answers in this pod's memory, bounded in bytes. One whose life is over is found by nobody, and makes room as what nobody asks
/// for does.
pub struct AnswerCache {
    entries: Cache<CacheKey, Entry, Bytesize>,
}

#[derive(Clone)]
struct Entry {
    answer: CachedAnswer,
    until: Instant,
}

#[derive(Clone)]
struct Bytesize;

impl Weighter<CacheKey, Entry> for Bytesize {
    fn weight(&self, _: &CacheKey, entry: &Entry) -> u64 {
        (entry.answer.completion.len() + ENTRY_OVERHEAD) as u64
    }
}

impl AnswerCache {
    /// An empty cache. `memory_bytes` counts values, keys and overhead.
    #[must_use]
    pub fn new(memory_bytes: u64) -> Self {
        let parts = usize::try_from((memory_bytes / PART_BYTES).clamp(1, PARTS)).unwrap_or(1);
        let usual = usize::try_from(memory_bytes / USUAL_ENTRY).unwrap_or(usize::MAX);
        let mut options = OptionsBuilder::new();
        options.shards(parts).estimated_items_capacity(usual).weight_capacity(memory_bytes);
        let entries = match options.build() {
            Ok(options) => Cache::with_options(
                options,
                Bytesize,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            // Only what is not set is refused.
            Err(_) => Cache::with_weighter(usual, memory_bytes, Bytesize),
        };
        Self { entries }
    }

    /// The stored answer.
    #[must_use]
    pub fn get(&self, key: CacheKey) -> Option<CachedAnswer> {
        let entry = self.entries.get(&key)?;
        if entry.until <= Instant::now() {
            self.entries.remove_if(&key, |entry| entry.until <= Instant::now());
            return None;
        }
        Some(entry.answer)
    }

    /// The same, asked once more for a request that found none: that tells nothing new of how often the answer is wanted.
    #[must_use]
    pub fn get_after_all(&self, key: CacheKey) -> Option<CachedAnswer> {
        self.entries.peek(&key).filter(|entry| entry.until > Instant::now()).map(|entry| entry.answer)
    }

    /// Keeps an answer for `life`, which [`jittered`] made, or for as long as there is room.
    pub fn put(&self, key: CacheKey, answer: CachedAnswer, life: Duration) {
        self.entries.insert(key, Entry { answer, until: Instant::now() + life });
    }
}

/// What a request's `Cache-Control` allows.
/// <https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheControl {
    /// A stored answer may be given: not with `no-cache`.
    pub read: bool,
    /// The answer may be stored: not with `no-store`.
    pub store: bool,
    /// Nothing but a stored answer is wanted: `only-if-cached`.
    pub only_if_cached: bool,
}

impl Default for CacheControl {
    fn default() -> Self {
        Self { read: true, store: true, only_if_cached: false }
    }
}

impl CacheControl {
    /// Reads the values of all `Cache-Control` headers of a request; other directives change nothing.
    #[must_use]
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut control = Self::default();
        for directive in values.into_iter().flat_map(|value| value.split(',')) {
            match directive.trim().to_ascii_lowercase().as_str() {
                "no-cache" => control.read = false,
                "no-store" => control.store = false,
                "only-if-cached" => control.only_if_cached = true,
                _ => {}
            }
        }
        control
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: KeyScope<'_> = KeyScope {
        uid: "u-1",
        scope: None,
        backend_host: "api.openai.com",
        operation: "chat",
        model: "chat",
        upstream: "gpt-4o",
        rewriting: REWRITING,
    };
    const REWRITING: Rewriting<'_> =
        Rewriting { max_output_tokens: None, always_capped: false, cap_field: "max_tokens", omit: &[] };
    const MEMBERS: [(&str, &[u8]); 3] =
        [("seed", b"1"), ("messages", br#"[{"role":"user"}]"#), ("temperature", b"0.7")];

    fn answer(length: usize) -> CachedAnswer {
        CachedAnswer { completion: format!("{{\"a\":\"{}\"}}", "x".repeat(length)).into() }
    }

    #[test]
    fn streaming_does_not_change_the_key_and_everything_else_does() {
        let plain = key(SCOPE, MEMBERS);
        let streamed: Vec<(&str, &[u8])> =
            MEMBERS.into_iter().chain([("stream", &b"true"[..]), ("stream_options", b"{}")]).collect();
        assert_eq!(key(SCOPE, streamed), plain);
        let named = MEMBERS.into_iter().chain([("model", &br#""chat""#[..])]);
        assert_eq!(
            key(SCOPE, named),
            plain,
            "a request that names the default model and one that names none"
        );

        let mut keys = vec![
            plain,
            key(KeyScope { uid: "u-2", ..SCOPE }, MEMBERS),
            key(KeyScope { scope: Some("alice"), ..SCOPE }, MEMBERS),
            key(KeyScope { backend_host: "llm.internal", ..SCOPE }, MEMBERS),
            key(KeyScope { model: "other", ..SCOPE }, MEMBERS),
            key(KeyScope { upstream: "gpt-5", ..SCOPE }, MEMBERS),
            key(KeyScope { model: "chatg", upstream: "pt-4o", ..SCOPE }, MEMBERS),
            key(KeyScope { uid: "u-1a", scope: Some("lice"), ..SCOPE }, MEMBERS),
            key(SCOPE, MEMBERS.into_iter().rev()),
            key(SCOPE, MEMBERS.into_iter().chain([("user", &b"1"[..])])),
            key(SCOPE, [("see", &b"d1"[..]), MEMBERS[1], MEMBERS[2]]),
        ];
        for left_out in 0..MEMBERS.len() {
            keys.push(key(
                SCOPE,
                MEMBERS.into_iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, m)| m),
            ));
        }
        let count = keys.len();
        keys.sort_by_key(|key| key.0);
        keys.dedup();
        assert_eq!(keys.len(), count, "all keys differ");
    }

    #[test]
    fn a_setting_that_changes_what_the_backend_is_asked_changes_the_key() {
        let (seed, both) = (["seed".to_owned()], ["seed".to_owned(), "user".to_owned()]);
        let joined = ["seeduser".to_owned()];
        let rewritings = [
            REWRITING,
            Rewriting { max_output_tokens: Some(0), ..REWRITING },
            Rewriting { max_output_tokens: Some(100), ..REWRITING },
            Rewriting { max_output_tokens: Some(200), ..REWRITING },
            Rewriting { always_capped: true, ..REWRITING },
            Rewriting { cap_field: "max_completion_tokens", ..REWRITING },
            Rewriting { omit: &seed, ..REWRITING },
            Rewriting { omit: &both, ..REWRITING },
            Rewriting { omit: &joined, ..REWRITING },
        ];
        let mut keys: Vec<CacheKey> = rewritings
            .iter()
            .map(|rewriting| key(KeyScope { rewriting: *rewriting, ..SCOPE }, MEMBERS))
            .collect();
        keys.sort_by_key(|key| key.0);
        keys.dedup();
        assert_eq!(keys.len(), rewritings.len(), "all keys differ");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let answer = answer(10);
        assert_eq!(CachedAnswer::decode(&answer.encode()), Some(answer));
    }

    #[test]
    fn what_is_not_a_stored_answer_is_a_miss() {
        let good = answer(3).encode();
        for end in 0..good.len() {
            assert_eq!(CachedAnswer::decode(&good.slice(..end)), None, "cut at {end}");
        }
        for garbage in ["", "CSA1", "CSA1\u{0}{}", "CSA2{}", "CSA1[]", "CSA1{} x", "CSA1 {}", "{}"] {
            assert_eq!(CachedAnswer::decode(&Bytes::from_static(garbage.as_bytes())), None, "{garbage:?}");
        }
        assert_eq!(CachedAnswer::decode(&Bytes::from_static(b"CSA1{\"a\":\"\xff\"}")), None);
    }

    #[test]
    fn entries_are_bounded_in_bytes() {
        let cache = AnswerCache::new(64 * 1024);
        for index in 0..=255 {
            cache.put(CacheKey([index; 32]), answer(1000), Duration::from_mins(1));
        }
        assert!(cache.entries.weight() <= 64 * 1024);
        assert!(cache.entries.len() > 10);
        cache.put(CacheKey([0; 32]), answer(70_000), Duration::from_mins(1));
        assert_eq!(cache.get(CacheKey([0; 32])), None, "larger than the whole cache");
    }

    #[test]
    fn an_entry_lives_as_long_as_it_was_given() {
        let cache = AnswerCache::new(64 * 1024);
        cache.put(CacheKey([1; 32]), answer(1), Duration::from_mins(1));
        cache.put(CacheKey([2; 32]), answer(1), Duration::ZERO);
        assert_eq!(cache.get(CacheKey([1; 32])), Some(answer(1)));
        assert_eq!(cache.get(CacheKey([2; 32])), None);
    }

    #[test]
    fn lives_differ_by_a_tenth_at_most() {
        let ttl = Duration::from_millis(100_500);
        let lives: Vec<_> = (0..200).map(|_| jittered(ttl)).collect();
        let shortest = lives.iter().min().copied().unwrap();
        let longest = lives.iter().max().copied().unwrap();
        assert!(shortest >= ttl.mul_f64(0.9) && shortest < ttl, "{shortest:?}");
        assert!(longest <= ttl.mul_f64(1.1) && longest > ttl, "{longest:?}");
    }

    #[test]
    fn cache_control_is_read_leniently() {
        let control = |read, store, only_if_cached| CacheControl { read, store, only_if_cached };
        for (values, expected) in [
            (vec![], control(true, true, false)),
            (vec!["max-age=0, must-revalidate", ""], control(true, true, false)),
            (vec!["No-Cache"], control(false, true, false)),
            (vec!["no-store ,x"], control(true, false, false)),
            (vec!["no-cache", "no-store, only-if-cached"], control(false, false, true)),
        ] {
            assert_eq!(CacheControl::parse(values.iter().copied()), expected, "{values:?}");
        }
    }
}
