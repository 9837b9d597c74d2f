//! One table of what is refused, and one of what is accepted, for everything that judges a ChatService: `validate`,
//! `local` and the API server must agree on every row.

/// A ChatService that must be refused.
pub struct InvalidSpec {
    /// What is wrong with it.
    pub name: &'static str,
    /// `metadata.name`.
    pub object: &'static str,
    /// `spec`, as YAML on one line.
    pub spec: &'static str,
    /// What `validate` says: the path of the field and the sentence, or the part of it that matters.
    pub says: &'static str,
    /// A part of what the API server says. Its own words where its schema refuses, ours where a rule does.
    pub api_server: &'static str,
}

/// A whole document.
pub fn document(object: &str, spec: &str) -> String {
    format!(
        "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata:\n  name: {object}\nspec: {spec}\n"
    )
}

impl InvalidSpec {
    /// The document of this row.
    pub fn document(&self) -> String {
        document(self.object, self.spec)
    }
}

/// The schema refuses it: two wordings of the same.
const fn schema(
    name: &'static str,
    spec: &'static str,
    says: &'static str,
    api_server: &'static str,
) -> InvalidSpec {
    InvalidSpec { name, object: "demo", spec, says, api_server }
}

/// A rule refuses it: one sentence, at the field.
const fn rule(
    name: &'static str,
    spec: &'static str,
    path: &'static str,
    sentence: &'static str,
) -> InvalidSpec {
    InvalidSpec { name, object: "demo", spec, says: path, api_server: sentence }
}

/// The rule about the name.
const fn named(name: &'static str, object: &'static str) -> InvalidSpec {
    InvalidSpec {
        name,
        object,
        spec: "{model: m, backend: {echo: {}}}",
        says: "metadata.name: must be at most 52 characters of a-z, 0-9 and '-'",
        api_server: "metadata.name",
    }
}

const BACKEND: &str = "set exactly one backend: echo: {} answers with the last message";
const MODEL: &str = "must be a model name: 1 to 128 letters";
const URL: &str = "must be http(s)://host[:port][/path] without user, query or fragment";
const PLAIN: &str = "plain http is only allowed to loopback, private addresses and cluster-local names";
const SECRET: &str = "must be the name of a Secret: lower-case letters, digits, '-' and '.'";
const CACHE_TTL: &str = "must be a duration from 0s (no cache) to 720h";
const CONVERSATION_TTL: &str = "must be a duration from 1m to 8760h";
const PROXY: &str = "must be http(s)://host:port without user, path, query or fragment";
const CONFIG_MAP: &str = "must be the name of a ConfigMap: lower-case letters, digits, '-' and '.'";
const AMONG: &str = "must be the name of one of models: add it there, or name one that is";
const SAME_NAME: &str = "two models have the same name: give each its own";
const UNKNOWN_FALLBACK: &str = "fallbacks must be names of models in this list";
const NO_END: &str = "following fallbacks must end after at most 8 models and never come back";
const MEMBERS: &str = "must be names of members of a request: letters, digits and _";
const NOT_OMITTED: &str = "must not name model, messages or stream, nor the output cap";
const PRICE: &str = "must be USD as a decimal in quotes with at most six decimals";
const AMOUNT: &str = "must be USD as a decimal in quotes, above 0, below 1000000";
const CAPS: &str =
    "needs models, each with maxOutputTokens: a request reserves what its longest answer would cost";
const ONE_LIMIT: &str = "set at least one of requestsPerMinute, tokensPerMinute and concurrentRequests";
const BURST: &str = "burst needs requestsPerMinute: set it too, or take burst out";
const ORDER: &str = "connect, firstToken and idle must be at most request, which is 10m when it is left out";
const ORIGINS: &str =
    "must be origins, http(s)://host[:port] without path, such as https://app.example.com, or * for all";
const ALL_ORIGINS: &str = "* is every origin: leave the others out, or take it out";
const SAME_ORIGIN: &str = "names an origin twice: once is enough";
const OTLP: &str =
    "must be http(s)://host[:port][/path] without user, query or fragment, such as http://otel-collector";
const NEEDS_AUTH: &str = "Caller needs auth, which says who a caller is: add it, or write Service";
const PROXIES: &str = "must be addresses or CIDRs, such as 10.0.0.0/8, and not all addresses (/0)";
const MEMORY: &str = "must be a whole number of bytes from 1Mi to 16Gi";
const IMAGE: &str = "must be an image with a tag or digest";
const METRIC: &str = "type must be Resource, ContainerResource, Pods, Object or External, with exactly the member of that name";
const LABELS: &str = "must be labels: keys such as team or example.com/team";
const ANNOTATIONS: &str = "keys must be names of annotations, such as owner or example.com/owner";
const PEER: &str = "set ipBlock alone, or namespaceSelector, podSelector or both";
const CIDR: &str = "must be an IP range in CIDR form, such as 10.0.0.0/8 or 2001:db8::/32";
const QUANTITY: &str = "values must be quantities, such as 100m, 1 or 64Mi";
const RESOURCE: &str = "names must be cpu, memory, ephemeral-storage, hugepages-SIZE or VENDOR/RESOURCE";

/// Everything that is refused.
pub const INVALID: &[InvalidSpec] = &[
    // Shape: unknown, missing, of the wrong type.
    schema(
        "an unknown field",
        "{model: m, backend: {echo: {}}, colour: red}",
        "spec.colour: unknown field",
        "unknown field \"spec.colour\"",
    ),
    schema(
        "a typo",
        "{model: m, backend: {echo: {}}, rateLimit: {}}",
        "spec.rateLimit: unknown field, did you mean rateLimits?",
        "unknown field \"spec.rateLimit\"",
    ),
    schema(
        "a field of another level",
        "{model: m, backend: {echo: {}}, burst: 3}",
        "spec.burst: unknown field, it belongs in spec.rateLimits.",
        "unknown field \"spec.burst\"",
    ),
    schema(
        "a setting of echo",
        "{model: m, backend: {echo: {delay: 1s}}}",
        "spec.backend.echo.delay: unknown field. Nothing is allowed here: write {}",
        "unknown field \"spec.backend.echo.delay\"",
    ),
    schema(
        "an API key in the object",
        "{model: m, backend: {openai: {apiKey: k}}}",
        "spec.backend.openai.apiKey: unknown field. Allowed here: baseURL, caBundleConfigMapRef, credentialsSecretRef",
        "unknown field \"spec.backend.openai.apiKey\"",
    ),
    schema(
        "no model",
        "{backend: {echo: {}}}",
        "spec.model: is required. What a caller gets who names no model.",
        "spec.model: Required value",
    ),
    schema(
        "no backend",
        "{model: m}",
        "spec.backend: is required. What answers: exactly one of `echo` and `openai`.",
        "spec.backend: Required value",
    ),
    schema(
        "no name of a Secret",
        "{model: m, backend: {echo: {}}, redis: {secretRef: {}}}",
        "spec.redis.secretRef.name: is required.",
        "spec.redis.secretRef.name: Required value",
    ),
    schema(
        "no ttl",
        "{model: m, backend: {echo: {}}, cache: {}}",
        "spec.cache.ttl: is required.",
        "spec.cache.ttl: Required value",
    ),
    schema(
        "no name of a ConfigMap",
        "{model: m, backend: {openai: {caBundleConfigMapRef: {}}}}",
        "spec.backend.openai.caBundleConfigMapRef.name: is required.",
        "spec.backend.openai.caBundleConfigMapRef.name: Required value",
    ),
    schema(
        "no name of a model",
        "{model: m, backend: {echo: {}}, models: [{upstreamModel: m}]}",
        "spec.models[0].name: is required.",
        "spec.models[0].name: Required value",
    ),
    schema(
        "half a price",
        "{model: m, backend: {echo: {}}, models: [{name: m, price: {inputPerMillionTokens: '1'}}]}",
        "spec.models[0].price.outputPerMillionTokens: is required.",
        "spec.models[0].price.outputPerMillionTokens: Required value",
    ),
    schema(
        "a price as a number",
        "{model: m, backend: {echo: {}}, models: [{name: m, price: {inputPerMillionTokens: 0.15, outputPerMillionTokens: '1'}}]}",
        "spec.models[0].price.inputPerMillionTokens: must be a string, not a number: put it in quotes, \"0.15\"",
        "inputPerMillionTokens in body must be of type string",
    ),
    schema(
        "a budget without a period",
        "{model: m, backend: {echo: {}}, budget: {amount: '1'}}",
        "spec.budget.period: is required.",
        "spec.budget.period: Required value",
    ),
    schema(
        "no such period",
        "{model: m, backend: {echo: {}}, budget: {amount: '1', period: month}}",
        "spec.budget.period: must be one of Day, Week, Month: did you mean Month?",
        "supported values: \"Day\", \"Week\", \"Month\"",
    ),
    schema(
        "no models at all",
        "{model: m, backend: {echo: {}}, models: []}",
        "spec.models: must not be empty: leave it out instead",
        "should have at least 1 items",
    ),
    schema(
        "fallbacks without end",
        "{model: m, backend: {echo: {}}, models: [{name: m, fallbacks: [a, b, c, d, e, f, g, h, i]}]}",
        "spec.models[0].fallbacks: must have at most 8 entries",
        "must have at most 8 items",
    ),
    schema(
        "no such name of a cap",
        "{model: m, backend: {echo: {}}, models: [{name: m, maxTokensField: maxTokens}]}",
        "spec.models[0].maxTokensField: must be one of max_tokens, max_completion_tokens: did you mean max_tokens?",
        "supported values: \"max_tokens\", \"max_completion_tokens\"",
    ),
    schema(
        "answers of nothing",
        "{model: m, backend: {echo: {}}, models: [{name: m, maxOutputTokens: 0}]}",
        "spec.models[0].maxOutputTokens: must be from 1 to 10000000, not 0",
        "should be greater than or equal to 1",
    ),
    schema(
        "no tokens at all",
        "{model: m, backend: {echo: {}}, rateLimits: {tokensPerMinute: 0}}",
        "spec.rateLimits.tokensPerMinute: must be from 1 to 1000000000, not 0",
        "should be greater than or equal to 1",
    ),
    schema(
        "nothing at the same time",
        "{model: m, backend: {echo: {}}, rateLimits: {concurrentRequests: 0}}",
        "spec.rateLimits.concurrentRequests: must be from 1 to 100000, not 0",
        "should be greater than or equal to 1",
    ),
    schema(
        "limits of nobody",
        "{model: m, backend: {echo: {}}, rateLimits: {requestsPerMinute: 1, per: Pod}}",
        "spec.rateLimits.per: must be one of Caller, Service",
        "supported values: \"Caller\", \"Service\"",
    ),
    schema(
        "no such way to fail",
        "{model: m, backend: {echo: {}}, rateLimits: {requestsPerMinute: 1, onStoreFailure: Allow}}",
        "spec.rateLimits.onStoreFailure: must be one of Local, Open, Closed",
        "supported values: \"Local\", \"Open\", \"Closed\"",
    ),
    schema(
        "no such mode",
        "{model: m, backend: {echo: {}}, rateLimits: {requestsPerMinute: 1, mode: Observe}}",
        "spec.rateLimits.mode: must be one of Enforce, Shadow",
        "supported values: \"Enforce\", \"Shadow\"",
    ),
    schema(
        "memory of next to nothing",
        "{model: m, backend: {echo: {}}, conversations: {maxTokens: 99}}",
        "spec.conversations.maxTokens: must be from 100 to 10000000, not 99",
        "should be greater than or equal to 100",
    ),
    schema(
        "no attempt",
        "{model: m, backend: {echo: {}}, retries: {maxAttempts: 0}}",
        "spec.retries.maxAttempts: must be from 1 to 10, not 0",
        "should be greater than or equal to 1",
    ),
    schema(
        "a time as a number",
        "{model: m, backend: {echo: {}}, timeouts: {connect: 1}}",
        "spec.timeouts.connect: must be a string, not a number",
        "spec.timeouts.connect in body must be of type string",
    ),
    schema(
        "a number for a string",
        "{model: 4, backend: {echo: {}}}",
        "spec.model: must be a string, not a number: put it in quotes, \"4\"",
        "spec.model in body must be of type string",
    ),
    schema(
        "on for a string",
        "{model: on, backend: {echo: {}}}",
        "spec.model: must be a string, not true or false",
        "spec.model in body must be of type string",
    ),
    schema(
        "a string for a number",
        "{model: m, backend: {echo: {}}, replicas: '3'}",
        "spec.replicas: must be a whole number, not a string: write 3 without quotes",
        "spec.replicas in body must be of type integer",
    ),
    schema(
        "a fraction of a pod",
        "{model: m, backend: {echo: {}}, replicas: 1.5}",
        "spec.replicas: must be a whole number, not 1.5",
        "spec.replicas in body must be of type int",
    ),
    schema(
        "a null for a model",
        "{model: null, backend: {echo: {}}}",
        "spec.model: is required.",
        "spec.model: Required value",
    ),
    schema(
        "a list for a mapping",
        "{model: m, backend: [echo]}",
        "spec.backend: must be a mapping of fields, not a list",
        "spec.backend in body must be of type object",
    ),
    schema(
        "a list for a quantity",
        "{model: m, backend: {echo: {}}, resources: {limits: {cpu: [1]}}}",
        "spec.resources.limits.cpu: must be a whole number or a string, not a list",
        "spec.resources.limits.cpu in body must be of type integer,string",
    ),
    // Ranges, lengths, choices.
    schema(
        "too few pods",
        "{model: m, backend: {echo: {}}, replicas: -1}",
        "spec.replicas: must be from 0 to 1000, not -1",
        "should be greater than or equal to 0",
    ),
    schema(
        "too many pods",
        "{model: m, backend: {echo: {}}, replicas: 1001}",
        "spec.replicas: must be from 0 to 1000, not 1001",
        "should be less than or equal to 1000",
    ),
    schema(
        "no requests at all",
        "{model: m, backend: {echo: {}}, rateLimits: {requestsPerMinute: 0}}",
        "spec.rateLimits.requestsPerMinute: must be from 1 to 1000000, not 0",
        "should be greater than or equal to 1",
    ),
    schema(
        "too many requests",
        "{model: m, backend: {echo: {}}, rateLimits: {requestsPerMinute: 1000001}}",
        "must be from 1 to 1000000",
        "should be less than or equal to 1",
    ),
    schema(
        "a burst of nothing",
        "{model: m, backend: {echo: {}}, rateLimits: {requestsPerMinute: 1, burst: 0}}",
        "spec.rateLimits.burst: must be from 1 to 100000, not 0",
        "should be greater than or equal to 1",
    ),
    schema(
        "too hot",
        "{model: m, backend: {echo: {}}, defaults: {temperature: 2.5}}",
        "spec.defaults.temperature: must be from 0 to 2, not 2.5",
        "should be less than or equal to 2",
    ),
    schema(
        "answers too long",
        "{model: m, backend: {echo: {}}, defaults: {maxTokens: 4001}}",
        "spec.defaults.maxTokens: must be from 1 to 4000, not 4001",
        "should be less than or equal to 4000",
    ),
    schema(
        "half a turn of memory",
        "{model: m, backend: {echo: {}}, conversations: {maxMessages: 1}}",
        "spec.conversations.maxMessages: must be from 2 to 200, not 1",
        "should be greater than or equal to 2",
    ),
    schema(
        "port zero",
        "{model: m, backend: {echo: {}}, service: {port: 0}}",
        "spec.service.port: must be from 1 to 65535, not 0",
        "should be greater than or equal to 1",
    ),
    schema(
        "no such port",
        "{model: m, backend: {echo: {}}, service: {port: 65536}}",
        "spec.service.port: must be from 1 to 65535, not 65536",
        "should be less than or equal to 65535",
    ),
    schema(
        "no such kind of Service",
        "{model: m, backend: {echo: {}}, service: {type: NodePorts}}",
        "spec.service.type: must be one of ClusterIP, NodePort, LoadBalancer: did you mean NodePort?",
        "supported values: \"ClusterIP\", \"NodePort\", \"LoadBalancer\"",
    ),
    schema(
        "a playground that is a word",
        "{model: m, backend: {echo: {}}, playground: {enabled: 'false'}}",
        "spec.playground.enabled: must be true or false, not a string",
        "spec.playground.enabled in body must be of type boolean",
    ),
    schema(
        "no such level",
        "{model: m, backend: {echo: {}}, logging: {level: verbose}}",
        "spec.logging.level: must be one of error, warn, info, debug",
        "supported values: \"error\", \"warn\", \"info\", \"debug\"",
    ),
    schema(
        "a level in capitals",
        "{model: m, backend: {echo: {}}, logging: {level: INFO}}",
        "did you mean info?",
        "supported values: \"error\", \"warn\", \"info\", \"debug\"",
    ),
    schema(
        "a name of a Secret too long",
        concat!(
            "{model: m, backend: {echo: {}}, redis: {secretRef: {name: ",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}}"
        ),
        "spec.redis.secretRef.name: must have at most 253 characters, not 260",
        "may not be more than 253",
    ),
    // Rules.
    rule("no backend chosen", "{model: m, backend: {}}", "spec.backend: ", BACKEND),
    rule("echo without braces", "{model: m, backend: {echo: }}", "spec.backend: ", BACKEND),
    rule("two backends", "{model: m, backend: {echo: {}, openai: {}}}", "spec.backend: ", BACKEND),
    rule("a model of nothing", "{model: '', backend: {echo: {}}}", "spec.model: ", MODEL),
    rule("a model with a blank", "{model: 'gpt 4', backend: {echo: {}}}", "spec.model: ", MODEL),
    rule("a model with a line break", "{model: \"gpt\\n\", backend: {echo: {}}}", "spec.model: ", MODEL),
    rule(
        "not a URL",
        "{model: m, backend: {openai: {baseURL: api.openai.com}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "another scheme",
        "{model: m, backend: {openai: {baseURL: 'ftp://h/v1'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "a user in the URL",
        "{model: m, backend: {openai: {baseURL: 'https://u:p@h/v1'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "a query in the URL",
        "{model: m, backend: {openai: {baseURL: 'https://h/v1?k=v'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "a fragment in the URL",
        "{model: m, backend: {openai: {baseURL: 'https://h/v1#f'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "a port that is none",
        "{model: m, backend: {openai: {baseURL: 'https://h:65536/v1'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "plain http to the world",
        "{model: m, backend: {openai: {baseURL: 'http://api.openai.com/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "plain http to a public address",
        "{model: m, backend: {openai: {baseURL: 'http://172.32.0.1/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "plain http to a public IPv6 address",
        "{model: m, backend: {openai: {baseURL: 'http://[2001:db8::1]/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "a name in disguise",
        "{model: m, backend: {openai: {baseURL: 'http://10.0.0.1.evil.com/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "no octet",
        "{model: m, backend: {openai: {baseURL: 'http://10.999.1.1/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "a short address",
        "{model: m, backend: {openai: {baseURL: 'http://127.1/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "an octet with a zero in front",
        "{model: m, backend: {openai: {baseURL: 'http://10.0.0.01/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "an address as a number",
        "{model: m, backend: {openai: {baseURL: 'http://134744072/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "an address as a hexadecimal number",
        "{model: m, backend: {openai: {baseURL: 'http://0x08080808/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "an IPv6 address that only begins like a private one",
        "{model: m, backend: {openai: {baseURL: 'http://[fc::1]/v1'}}}",
        "spec.backend.openai.baseURL: ",
        PLAIN,
    ),
    rule(
        "no IPv6 address",
        "{model: m, backend: {openai: {baseURL: 'https://[::::]/v1'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "an IPv6 address of nine groups",
        "{model: m, backend: {openai: {baseURL: 'https://[1:2:3:4:5:6:7:8:9]/v1'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "port 0",
        "{model: m, backend: {openai: {baseURL: 'https://h:0/v1'}}}",
        "spec.backend.openai.baseURL: ",
        URL,
    ),
    rule(
        "no name of a Secret by form",
        "{model: m, backend: {openai: {credentialsSecretRef: {name: My_Secret}}}}",
        "spec.backend.openai.credentialsSecretRef.name: ",
        SECRET,
    ),
    rule(
        "an origin with a path",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['https://app.example.com/']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "an origin without a scheme",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['app.example.com']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "an origin of another scheme",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['file://app']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "an origin with a user",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['https://a@app.example.com']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "an origin with a star in it",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['https://*.example.com']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "an empty origin",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "no origin",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['null']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "an origin with port 0",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['https://app.example.com:0']}}",
        "spec.cors.allowOrigins: ",
        ORIGINS,
    ),
    rule(
        "every origin and another",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['*', 'https://app.example.com']}}",
        "spec.cors.allowOrigins: ",
        ALL_ORIGINS,
    ),
    rule(
        "an origin twice",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['https://a.example', 'https://a.example']}}",
        "spec.cors.allowOrigins: ",
        SAME_ORIGIN,
    ),
    rule("days", "{model: m, backend: {echo: {}}, cache: {ttl: 1d}}", "spec.cache.ttl: ", CACHE_TTL),
    rule(
        "a fraction of an hour",
        "{model: m, backend: {echo: {}}, cache: {ttl: 1.5h}}",
        "spec.cache.ttl: ",
        CACHE_TTL,
    ),
    rule(
        "less than no time",
        "{model: m, backend: {echo: {}}, cache: {ttl: '-1h'}}",
        "spec.cache.ttl: ",
        CACHE_TTL,
    ),
    rule(
        "a cache for years",
        "{model: m, backend: {echo: {}}, cache: {ttl: 721h}}",
        "spec.cache.ttl: ",
        CACHE_TTL,
    ),
    rule(
        "longer than a duration can be",
        "{model: m, backend: {echo: {}}, cache: {ttl: 99999999999999h}}",
        "spec.cache.ttl: ",
        CACHE_TTL,
    ),
    rule(
        "a cache of nothing",
        "{model: m, backend: {echo: {}}, cache: {ttl: 1h, memory: 0Mi}}",
        "spec.cache.memory: ",
        MEMORY,
    ),
    rule(
        "a cache of a machine",
        "{model: m, backend: {echo: {}}, cache: {ttl: 1h, memory: 17Gi}}",
        "spec.cache.memory: ",
        MEMORY,
    ),
    rule(
        "megabytes by another name",
        "{model: m, backend: {echo: {}}, cache: {ttl: 1h, memory: 64MB}}",
        "spec.cache.memory: ",
        MEMORY,
    ),
    rule(
        "conversations of a second",
        "{model: m, backend: {echo: {}}, conversations: {ttl: 1s}}",
        "spec.conversations.ttl: ",
        CONVERSATION_TTL,
    ),
    rule(
        "conversations for ever",
        "{model: m, backend: {echo: {}}, conversations: {ttl: 8761h}}",
        "spec.conversations.ttl: ",
        CONVERSATION_TTL,
    ),
    rule(
        "an image of any age",
        "{model: m, backend: {echo: {}}, image: registry.example.com/chatservice}",
        "spec.image: ",
        IMAGE,
    ),
    rule("an image with a blank", "{model: m, backend: {echo: {}}, image: 'a b:1'}", "spec.image: ", IMAGE),
    rule(
        "lots of CPU",
        "{model: m, backend: {echo: {}}, resources: {requests: {cpu: lots}}}",
        "spec.resources.requests: ",
        QUANTITY,
    ),
    rule(
        "less than no memory",
        "{model: m, backend: {echo: {}}, resources: {limits: {memory: '-1Mi'}}}",
        "spec.resources.limits: ",
        QUANTITY,
    ),
    rule(
        "a resource that no node has",
        "{model: m, backend: {echo: {}}, resources: {limits: {gpu: 1}}}",
        "spec.resources.limits: ",
        RESOURCE,
    ),
    rule(
        "more wanted than allowed",
        "{model: m, backend: {echo: {}}, resources: {requests: {cpu: 2}, limits: {cpu: 1500m}}}",
        "spec.resources: ",
        "each of requests must be at most its limit",
    ),
    rule(
        "a model that is none of the models",
        "{model: m, backend: {echo: {}}, models: [{name: other}]}",
        "spec.model: ",
        AMONG,
    ),
    rule(
        "two models of one name",
        "{model: m, backend: {echo: {}}, models: [{name: m}, {name: m, upstreamModel: b}]}",
        "spec.models: ",
        SAME_NAME,
    ),
    rule(
        "a model's name with a blank",
        "{model: m, backend: {echo: {}}, models: [{name: m}, {name: a b}]}",
        "spec.models[1].name: ",
        MODEL,
    ),
    rule(
        "an upstream model of nothing",
        "{model: m, backend: {echo: {}}, models: [{name: m, upstreamModel: ''}]}",
        "spec.models[0].upstreamModel: ",
        MODEL,
    ),
    rule(
        "a fallback that is no model",
        "{model: m, backend: {echo: {}}, models: [{name: m, fallbacks: [other]}]}",
        "spec.models: ",
        UNKNOWN_FALLBACK,
    ),
    rule(
        "a fallback to itself",
        "{model: m, backend: {echo: {}}, models: [{name: m, fallbacks: [m]}]}",
        "spec.models: ",
        NO_END,
    ),
    rule(
        "fallbacks in a circle",
        "{model: m, backend: {echo: {}}, models: [{name: m, fallbacks: [a]}, {name: a, fallbacks: [b, c]}, {name: b}, {name: c, fallbacks: [m]}]}",
        "spec.models: ",
        NO_END,
    ),
    rule(
        "a way of nine models",
        "{model: m0, backend: {echo: {}}, models: [{name: m0, fallbacks: [m1]}, {name: m1, fallbacks: [m2]}, {name: m2, fallbacks: [m3]}, {name: m3, fallbacks: [m4]}, {name: m4, fallbacks: [m5]}, {name: m5, fallbacks: [m6]}, {name: m6, fallbacks: [m7]}, {name: m7, fallbacks: [m8]}, {name: m8}]}",
        "spec.models: ",
        NO_END,
    ),
    rule(
        "a fallback named twice",
        "{model: m, backend: {echo: {}}, models: [{name: m, fallbacks: [a, a]}, {name: a}]}",
        "spec.models[0].fallbacks: ",
        "names a model twice: once is enough",
    ),
    rule(
        "no name of a member",
        "{model: m, backend: {echo: {}}, models: [{name: m, omit: [stream_options.include_usage]}]}",
        "spec.models[0].omit: ",
        MEMBERS,
    ),
    rule(
        "a request without its messages",
        "{model: m, backend: {echo: {}}, models: [{name: m, omit: [messages]}]}",
        "spec.models[0].omit: ",
        NOT_OMITTED,
    ),
    rule(
        "a request without its output cap",
        "{model: m, backend: {echo: {}}, models: [{name: m, omit: [temperature, max_tokens]}]}",
        "spec.models[0].omit: ",
        NOT_OMITTED,
    ),
    rule(
        "a request without its output cap, by the other name",
        "{model: m, backend: {echo: {}}, models: [{name: m, omit: [max_completion_tokens]}]}",
        "spec.models[0].omit: ",
        NOT_OMITTED,
    ),
    rule(
        "a price in dollars",
        "{model: m, backend: {echo: {}}, models: [{name: m, price: {inputPerMillionTokens: '$1', outputPerMillionTokens: '1'}}]}",
        "spec.models[0].price.inputPerMillionTokens: ",
        PRICE,
    ),
    rule(
        "a price below nothing",
        "{model: m, backend: {echo: {}}, models: [{name: m, price: {inputPerMillionTokens: '-1', outputPerMillionTokens: '1'}}]}",
        "spec.models[0].price.inputPerMillionTokens: ",
        PRICE,
    ),
    rule(
        "a price with too many decimals",
        "{model: m, backend: {echo: {}}, models: [{name: m, price: {inputPerMillionTokens: '0.0000001', outputPerMillionTokens: '1'}}]}",
        "spec.models[0].price.inputPerMillionTokens: ",
        PRICE,
    ),
    rule(
        "a price as a power",
        "{model: m, backend: {echo: {}}, models: [{name: m, price: {inputPerMillionTokens: '1e3', outputPerMillionTokens: '1'}}]}",
        "spec.models[0].price.inputPerMillionTokens: ",
        PRICE,
    ),
    rule(
        "a price of a million",
        "{model: m, backend: {echo: {}}, models: [{name: m, price: {inputPerMillionTokens: '1000000', outputPerMillionTokens: '1'}}]}",
        "spec.models[0].price.inputPerMillionTokens: ",
        PRICE,
    ),
    rule(
        "a budget of nothing",
        "{model: m, backend: {echo: {}}, models: [{name: m, maxOutputTokens: 9}], budget: {amount: '0.00', period: Month}}",
        "spec.budget.amount: ",
        AMOUNT,
    ),
    rule(
        "a budget of a million",
        "{model: m, backend: {echo: {}}, models: [{name: m, maxOutputTokens: 9}], budget: {amount: '1000000', period: Month}}",
        "spec.budget.amount: ",
        AMOUNT,
    ),
    rule(
        "a budget in euros",
        "{model: m, backend: {echo: {}}, models: [{name: m, maxOutputTokens: 9}], budget: {amount: '25 EUR', period: Month}}",
        "spec.budget.amount: ",
        AMOUNT,
    ),
    rule(
        "a budget with a comma",
        "{model: m, backend: {echo: {}}, models: [{name: m, maxOutputTokens: 9}], budget: {amount: '25,00', period: Month}}",
        "spec.budget.amount: ",
        AMOUNT,
    ),
    rule(
        "a budget without models",
        "{model: m, backend: {echo: {}}, budget: {amount: '1', period: Month}}",
        "spec.budget: ",
        CAPS,
    ),
    rule(
        "a budget and an answer of any length",
        "{model: m, backend: {echo: {}}, budget: {amount: '1', period: Month}, models: [{name: m, maxOutputTokens: 9}, {name: b}]}",
        "spec.budget: ",
        CAPS,
    ),
    rule(
        "limits of nothing",
        "{model: m, backend: {echo: {}}, rateLimits: {}}",
        "spec.rateLimits: ",
        ONE_LIMIT,
    ),
    rule(
        "only a mode",
        "{model: m, backend: {echo: {}}, rateLimits: {mode: Shadow}}",
        "spec.rateLimits: ",
        ONE_LIMIT,
    ),
    rule(
        "a burst without a rate",
        "{model: m, backend: {echo: {}}, rateLimits: {tokensPerMinute: 1, burst: 1}}",
        "spec.rateLimits: ",
        BURST,
    ),
    rule(
        "a connection in no time",
        "{model: m, backend: {echo: {}}, timeouts: {connect: 9ms}}",
        "spec.timeouts.connect: ",
        "must be a duration from 10ms to 1m",
    ),
    rule(
        "a connection in minutes",
        "{model: m, backend: {echo: {}}, timeouts: {connect: 61s}}",
        "spec.timeouts.connect: ",
        "must be a duration from 10ms to 1m",
    ),
    rule(
        "a first token after years",
        "{model: m, backend: {echo: {}}, timeouts: {firstToken: 2h, request: 24h}}",
        "spec.timeouts.firstToken: ",
        "must be a duration from 1s to 1h, such as 120s",
    ),
    rule(
        "a pause of half a second",
        "{model: m, backend: {echo: {}}, timeouts: {idle: 500ms}}",
        "spec.timeouts.idle: ",
        "must be a duration from 1s to 1h, such as 60s",
    ),
    rule(
        "a request of days",
        "{model: m, backend: {echo: {}}, timeouts: {request: 25h}}",
        "spec.timeouts.request: ",
        "must be a duration from 1s to 24h",
    ),
    rule(
        "a request without a unit",
        "{model: m, backend: {echo: {}}, timeouts: {request: '600'}}",
        "spec.timeouts.request: ",
        "must be a duration from 1s to 24h",
    ),
    rule(
        "a first token after the end",
        "{model: m, backend: {echo: {}}, timeouts: {firstToken: 11m}}",
        "spec.timeouts: ",
        ORDER,
    ),
    rule(
        "a pause longer than the request",
        "{model: m, backend: {echo: {}}, timeouts: {idle: 61s, request: 1m}}",
        "spec.timeouts: ",
        ORDER,
    ),
    rule(
        "a proxy without a port",
        "{model: m, backend: {openai: {proxyURL: 'http://proxy'}}}",
        "spec.backend.openai.proxyURL: ",
        PROXY,
    ),
    rule(
        "a proxy with a path",
        "{model: m, backend: {openai: {proxyURL: 'http://proxy:3128/x'}}}",
        "spec.backend.openai.proxyURL: ",
        PROXY,
    ),
    rule(
        "a proxy with a user",
        "{model: m, backend: {openai: {proxyURL: 'http://u:p@proxy:3128'}}}",
        "spec.backend.openai.proxyURL: ",
        PROXY,
    ),
    rule(
        "a proxy of another kind",
        "{model: m, backend: {openai: {proxyURL: 'socks5://proxy:1080'}}}",
        "spec.backend.openai.proxyURL: ",
        PROXY,
    ),
    rule(
        "no name of a ConfigMap by form",
        "{model: m, backend: {openai: {caBundleConfigMapRef: {name: ../ca}}}}",
        "spec.backend.openai.caBundleConfigMapRef.name: ",
        CONFIG_MAP,
    ),
    rule(
        "traces to no URL",
        "{model: m, backend: {echo: {}}, telemetry: {otlpEndpoint: 'otel:4317'}}",
        "spec.telemetry.otlpEndpoint: ",
        OTLP,
    ),
    rule(
        "traces to the world in plain",
        "{model: m, backend: {echo: {}}, telemetry: {otlpEndpoint: 'http://otel.example.com:4318'}}",
        "spec.telemetry.otlpEndpoint: ",
        PLAIN,
    ),
    // Callers.
    rule(
        "auth by nothing",
        "{model: m, backend: {echo: {}}, auth: {}}",
        "spec.auth: ",
        "set apiKeysSecretRef, serviceAccounts or both, or leave auth out",
    ),
    rule(
        "no name of a Secret with keys",
        "{model: m, backend: {echo: {}}, auth: {apiKeysSecretRef: {name: ../keys}}}",
        "spec.auth.apiKeysSecretRef.name: ",
        SECRET,
    ),
    schema(
        "tokens of nobody",
        "{model: m, backend: {echo: {}}, auth: {serviceAccounts: {allowed: []}}}",
        "spec.auth.serviceAccounts.allowed: must not be empty",
        "should have at least 1 items",
    ),
    rule(
        "an audience with a blank",
        "{model: m, backend: {echo: {}}, auth: {serviceAccounts: {audience: 'a b', allowed: [{namespace: shop, name: web}]}}}",
        "spec.auth.serviceAccounts.audience: ",
        "must be visible ASCII without blanks",
    ),
    rule(
        "no namespace",
        "{model: m, backend: {echo: {}}, auth: {serviceAccounts: {allowed: [{namespace: a.b, name: web}]}}}",
        "spec.auth.serviceAccounts.allowed[0].namespace: ",
        "must be the name of a namespace",
    ),
    rule(
        "every account",
        "{model: m, backend: {echo: {}}, auth: {serviceAccounts: {allowed: [{namespace: shop, name: '*'}]}}}",
        "spec.auth.serviceAccounts.allowed[0].name: ",
        "must be the name of a ServiceAccount",
    ),
    rule(
        "a caller with two slashes",
        "{model: m, backend: {echo: {}}, auth: {apiKeysSecretRef: {name: k}, callers: [{name: a/b/c}]}}",
        "spec.auth.callers[0].name: ",
        "must be a data key of the Secret with the API keys",
    ),
    rule(
        "a caller with limits of nothing",
        "{model: m, backend: {echo: {}}, auth: {apiKeysSecretRef: {name: k}, callers: [{name: a, rateLimits: {}}]}}",
        "spec.auth.callers[0].rateLimits: ",
        ONE_LIMIT,
    ),
    rule(
        "a caller with a burst of nothing",
        "{model: m, backend: {echo: {}}, auth: {apiKeysSecretRef: {name: k}, callers: [{name: a, rateLimits: {burst: 1, tokensPerMinute: 1}}]}}",
        "spec.auth.callers[0].rateLimits: ",
        BURST,
    ),
    rule(
        "a caller with a budget in words",
        "{model: m, models: [{name: m, maxOutputTokens: 1}], backend: {echo: {}}, auth: {apiKeysSecretRef: {name: k}, callers: [{name: a, budget: {amount: much, period: Day}}]}}",
        "spec.auth.callers[0].budget.amount: ",
        AMOUNT,
    ),
    rule(
        "a caller with a budget without caps",
        "{model: m, backend: {echo: {}}, auth: {apiKeysSecretRef: {name: k}, callers: [{name: a, budget: {amount: '1', period: Day}}]}}",
        "spec.auth.callers: a budget ",
        CAPS,
    ),
    rule(
        "a budget of each address",
        "{model: m, models: [{name: m, maxOutputTokens: 1}], backend: {echo: {}}, budget: {amount: '1', period: Day, per: Caller}}",
        "spec.budget.per: ",
        NEEDS_AUTH,
    ),
    rule(
        "a cache of each address",
        "{model: m, backend: {echo: {}}, cache: {ttl: 1h, scope: Caller}}",
        "spec.cache.scope: ",
        NEEDS_AUTH,
    ),
    rule(
        "a proxy by name",
        "{model: m, backend: {echo: {}}, trustedProxies: [ingress]}",
        "spec.trustedProxies: ",
        PROXIES,
    ),
    rule(
        "a proxy that is everybody",
        "{model: m, backend: {echo: {}}, trustedProxies: [10.0.0.0/8, 0.0.0.0/0]}",
        "spec.trustedProxies: ",
        PROXIES,
    ),
    rule(
        "a network that is none",
        "{model: m, backend: {echo: {}}, trustedProxies: [10.0.0.0/33]}",
        "spec.trustedProxies: ",
        PROXIES,
    ),
    // The name.
    named("a name with a dot", "de.mo"),
    named("a name that begins with a digit", "1demo"),
    named("a name that ends with a dash", "demo-"),
    named("a name in capitals", "Demo"),
    named("a name of 53 letters", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    // How many pods, where they run, who reaches them.
    rule(
        "fewest above most",
        "{model: m, backend: {echo: {}}, autoscaling: {minReplicas: 3, maxReplicas: 2}}",
        "spec.autoscaling: ",
        "minReplicas must be at most maxReplicas: lower it or raise maxReplicas",
    ),
    schema(
        "autoscaling without an end",
        "{model: m, backend: {echo: {}}, autoscaling: {minReplicas: 3}}",
        "spec.autoscaling.maxReplicas: is required. Most pods",
        "spec.autoscaling.maxReplicas: Required value",
    ),
    schema(
        "autoscaling from zero",
        "{model: m, backend: {echo: {}}, autoscaling: {minReplicas: 0, maxReplicas: 2}}",
        "spec.autoscaling.minReplicas: must be from 1 to 1000, not 0",
        "spec.autoscaling.minReplicas in body should be greater than or equal to 1",
    ),
    rule(
        "autoscaling by CPU that nobody requests",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 2}, resources: {requests: {memory: 64Mi}}}",
        "spec.resources: ",
        "needs requests.cpu: autoscaling by CPU compares with it",
    ),
    rule(
        "autoscaling by memory that nobody requests",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 2, targetMemoryUtilizationPercentage: 80}, resources: {limits: {cpu: 1}}}",
        "spec.resources: ",
        "needs requests.memory: autoscaling by memory compares with it",
    ),
    rule(
        "a metric of a type that is none",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 2, metrics: [{type: Custom}]}}",
        "spec.autoscaling.metrics: ",
        METRIC,
    ),
    rule(
        "a metric without its member",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 2, metrics: [{type: Pods}]}}",
        "spec.autoscaling.metrics: ",
        METRIC,
    ),
    rule(
        "a metric with two members",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 2, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}, external: {metric: {name: q}, target: {type: Value, value: 1}}}]}}",
        "spec.autoscaling.metrics: ",
        METRIC,
    ),
    schema(
        "a typo in a metric",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 2, metrics: [{type: Pods, pods: {metric: {name: a}, target: {type: Value}, targett: {}}}]}}",
        "spec.autoscaling.metrics[0].pods.targett: unknown field, did you mean target?",
        "unknown field \"spec.autoscaling.metrics[0].pods.targett\"",
    ),
    rule(
        "a label of ours",
        "{model: m, backend: {echo: {}}, pod: {labels: {app.kubernetes.io/name: mine}}}",
        "spec.pod.labels: ",
        "keys must not begin with app.kubernetes.io/ or chatservice.dev/",
    ),
    rule(
        "a label that is none",
        "{model: m, backend: {echo: {}}, pod: {labels: {team: 'a b'}}}",
        "spec.pod.labels: ",
        LABELS,
    ),
    rule(
        "a node's label that is none",
        "{model: m, backend: {echo: {}}, pod: {nodeSelector: {'-x': z}}}",
        "spec.pod.nodeSelector: ",
        LABELS,
    ),
    rule(
        "an annotation of ours",
        "{model: m, backend: {echo: {}}, pod: {annotations: {chatservice.dev/config-hash: x}}}",
        "spec.pod.annotations: ",
        "keys must not begin with chatservice.dev/",
    ),
    rule(
        "an annotation that is none",
        "{model: m, backend: {echo: {}}, pod: {annotations: {'a b': x}}}",
        "spec.pod.annotations: ",
        ANNOTATIONS,
    ),
    schema(
        "a number as a label",
        "{model: m, backend: {echo: {}}, pod: {labels: {build: 7}}}",
        "spec.pod.labels.build: must be a string, not a number: put it in quotes",
        "spec.pod.labels.build in body must be of type string",
    ),
    rule(
        "a priority class that is none",
        "{model: m, backend: {echo: {}}, pod: {priorityClassName: High_Prio}}",
        "spec.pod.priorityClassName: ",
        "must be the name of a PriorityClass",
    ),
    rule(
        "one pull secret twice",
        "{model: m, backend: {echo: {}}, pod: {imagePullSecrets: [{name: a}, {name: a}]}}",
        "spec.pod.imagePullSecrets: ",
        "names a Secret twice: once is enough",
    ),
    rule(
        "a pull secret that is none",
        "{model: m, backend: {echo: {}}, pod: {imagePullSecrets: [{name: '../a'}]}}",
        "spec.pod.imagePullSecrets[0].name: ",
        SECRET,
    ),
    schema(
        "too little time to end",
        "{model: m, backend: {echo: {}}, pod: {terminationGracePeriodSeconds: 14}}",
        "spec.pod.terminationGracePeriodSeconds: must be from 15 to 86400, not 14",
        "spec.pod.terminationGracePeriodSeconds in body should be greater than or equal to 15",
    ),
    schema(
        "a container beside ours",
        "{model: m, backend: {echo: {}}, pod: {containers: []}}",
        "spec.pod.containers: unknown field",
        "unknown field \"spec.pod.containers\"",
    ),
    schema(
        "a typo in an affinity",
        "{model: m, backend: {echo: {}}, pod: {affinity: {nodeAfinity: {}}}}",
        "spec.pod.affinity.nodeAfinity: unknown field, did you mean nodeAffinity?",
        "unknown field \"spec.pod.affinity.nodeAfinity\"",
    ),
    schema(
        "a spread over nothing",
        "{model: m, backend: {echo: {}}, pod: {topologySpreadConstraints: [{maxSkew: 1, whenUnsatisfiable: DoNotSchedule}]}}",
        "spec.pod.topologySpreadConstraints[0].topologyKey: is required",
        "spec.pod.topologySpreadConstraints[0].topologyKey: Required value",
    ),
    rule(
        "an annotation of the Service that is ours",
        "{model: m, backend: {echo: {}}, service: {annotations: {chatservice.dev/x: z}}}",
        "spec.service.annotations: ",
        "keys must not begin with chatservice.dev/",
    ),
    rule(
        "an annotation of the Service that is none",
        "{model: m, backend: {echo: {}}, service: {annotations: {a/b/c: z}}}",
        "spec.service.annotations: ",
        ANNOTATIONS,
    ),
    schema(
        "a network policy that is neither on nor off",
        "{model: m, backend: {echo: {}}, networkPolicy: {egressTo: []}}",
        "spec.networkPolicy.enabled: is required. Whether there is one",
        "spec.networkPolicy.enabled: Required value",
    ),
    rule(
        "a peer that is nobody",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, ingressFrom: [{}]}}",
        "spec.networkPolicy.ingressFrom[0]: ",
        PEER,
    ),
    rule(
        "a peer that is pods and addresses",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, scrapeFrom: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}}",
        "spec.networkPolicy.scrapeFrom[0]: ",
        PEER,
    ),
    rule(
        "a destination that is ports alone",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, egressTo: [{ports: [443]}]}}",
        "spec.networkPolicy.egressTo[0]: ",
        PEER,
    ),
    rule(
        "an address for a range",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, egressTo: [{ipBlock: {cidr: 10.0.0.1}}]}}",
        "spec.networkPolicy.egressTo[0].ipBlock.cidr: ",
        CIDR,
    ),
    rule(
        "a range with too many bits",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, ingressFrom: [{ipBlock: {cidr: 10.0.0.0/33}}]}}",
        "spec.networkPolicy.ingressFrom[0].ipBlock.cidr: ",
        CIDR,
    ),
    rule(
        "an exception outside its range",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, egressTo: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}}",
        "spec.networkPolicy.egressTo[0].ipBlock: ",
        "except must hold ranges inside cidr",
    ),
    schema(
        "a port that nobody has",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, egressTo: [{podSelector: {}, ports: [70000]}]}}",
        "spec.networkPolicy.egressTo[0].ports[0]: must be from 1 to 65535, not 70000",
        "spec.networkPolicy.egressTo[0].ports[0] in body should be less than or equal to 65535",
    ),
    rule(
        "a certificate in a path",
        "{model: m, backend: {echo: {}}, service: {tls: {secretRef: {name: ../tls}}}}",
        "spec.service.tls.secretRef.name: ",
        SECRET,
    ),
    schema(
        "TLS without its Secret",
        "{model: m, backend: {echo: {}}, service: {tls: {}}}",
        "spec.service.tls.secretRef: is required. The Secret with the data keys",
        "spec.service.tls.secretRef: Required value",
    ),
];

/// What is accepted: (`metadata.name`, `spec`).
pub const VALID: &[(&str, &str)] = &[
    ("demo", "{model: echo-1, backend: {echo: {}}}"),
    ("demo", "{model: echo-1, backend: {echo: {}}, playground: {}}"),
    ("demo", "{model: m, backend: {echo: {}}, cors: {}}"),
    ("demo", "{model: m, backend: {echo: {}}, cors: {allowOrigins: []}}"),
    ("demo", "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['*']}}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, cors: {allowOrigins: ['https://app.example.com', 'http://localhost:3000', 'http://[::1]:8080']}}",
    ),
    ("demo", "{model: echo-1, backend: {echo: {}}, playground: {enabled: false}}"),
    ("a", "{model: 'org/model:7b-q4@x', backend: {openai: {}}}"),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "{model: m, backend: {echo: {}}, replicas: 0}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'https://api.example.com:8443/openai/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://vllm.models.svc:8000/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://vllm.models.svc.cluster.local/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://ollama:11434/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://127.0.0.1:11434/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://192.168.1.5:1/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://172.31.0.1/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://[::1]:8000/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://[fd00::1]:65535/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'https://[2001:db8::1]/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'https://[::]/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'https://[1:2:3:4:5:6:7:8]/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'https://[1:2:3:4:5:6:7::]/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'https://[1::5:6:7:8]/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {baseURL: 'http://127.255.0.1/v1'}}}"),
    ("demo", "{model: m, backend: {openai: {credentialsSecretRef: {name: team.openai-1}}}}"),
    ("demo", "{model: m, backend: {echo: {}}, cache: {ttl: 0s}}"),
    ("demo", "{model: m, backend: {echo: {}}, cache: {ttl: 1h30m, memory: 1Mi}}"),
    ("demo", "{model: m, backend: {echo: {}}, cache: {ttl: 720h, memory: 16Gi}}"),
    ("demo", "{model: m, backend: {echo: {}}, cache: {ttl: 2592000s, memory: '64000000'}}"),
    ("demo", "{model: m, backend: {echo: {}}, conversations: {ttl: 8760h, maxMessages: 200}}"),
    ("demo", "{model: m, backend: {echo: {}}, conversations: {}}"),
    ("demo", "{model: m, backend: {echo: {}}, rateLimits: {requestsPerMinute: 1000000, burst: 100000}}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, defaults: {systemPrompt: 'Be brief.', temperature: 0, maxTokens: 4000}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, redis: {secretRef: {name: redis}}}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, auth: {apiKeysSecretRef: {name: keys}}, cache: {ttl: 1h, scope: Caller}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, cache: {ttl: 1h, scope: Service}, trustedProxies: []}"),
    (
        "demo",
        "{model: m, models: [{name: m, maxOutputTokens: 1}], backend: {echo: {}}, budget: {amount: '1', period: Day, per: Caller}, auth: {serviceAccounts: {audience: '', allowed: [{namespace: shop, name: web.v2}]}, callers: [{name: shop/web.v2}, {name: A_b.c-d, rateLimits: {requestsPerMinute: 1}, budget: {amount: '2', period: Month}}]}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, trustedProxies: [10.0.0.0/8, 192.168.7.9, '2001:db8::/32', '::1', 10.1.2.3/8]}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, replicas: 3.0}"),
    ("demo", "{model: m, backend: {echo: {}}, image: 'registry.example.com:5000/a/b:0.1.0'}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, image: 'a@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, image: ''}"),
    (
        "demo",
        "{model: m, backend: {echo: {}, openai: null}, image: null, replicas: null, resources: {limits: {cpu: null}}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, resources: {requests: {cpu: 1, memory: 64Mi}, limits: {cpu: 1500m, nvidia.com/gpu: 1}}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, resources: {requests: {cpu: '+1', memory: '1e+9'}, limits: {cpu: '2000e-3', memory: '1E9'}}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, resources: {}, service: {}, logging: {}, defaults: {}}"),
    ("demo", "{model: m, backend: {echo: {}}, service: {type: LoadBalancer, port: 443}}"),
    ("demo", "{model: m, backend: {echo: {}}, logging: {level: debug, format: text}}"),
    ("demo", "{model: m, backend: {echo: {}}, rateLimits: {tokensPerMinute: 1000000000}}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, rateLimits: {concurrentRequests: 1, per: Service, onStoreFailure: Closed, mode: Shadow}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, models: [{name: m}]}"),
    (
        "demo",
        "{model: a, backend: {echo: {}}, models: [{name: b}, {name: a, fallbacks: [b, c]}, {name: c, fallbacks: [b]}]}",
    ),
    (
        "demo",
        "{model: m1, backend: {echo: {}}, models: [{name: m1, fallbacks: [m2]}, {name: m2, fallbacks: [m3]}, {name: m3, fallbacks: [m4]}, {name: m4, fallbacks: [m5]}, {name: m5, fallbacks: [m6]}, {name: m6, fallbacks: [m7]}, {name: m7, fallbacks: [m8]}, {name: m8}]}",
    ),
    (
        "demo",
        "{model: m, backend: {openai: {}}, models: [{name: m, upstreamModel: org/x:1, maxOutputTokens: 1, maxTokensField: max_tokens, omit: [temperature, top_p], price: {inputPerMillionTokens: '0', outputPerMillionTokens: '999999.999999'}}], budget: {amount: '0.000001', period: Day}}",
    ),
    (
        "demo",
        "{model: m, backend: {openai: {}}, models: [{name: m, upstreamModel: gpt-4o, maxOutputTokens: 16384}], budget: {amount: '999999.99', period: Week}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, timeouts: {connect: 10ms, firstToken: 1h, idle: 1h, request: 24h}, retries: {maxAttempts: 10}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, timeouts: {request: 1s}, retries: {}}"),
    ("demo", "{model: m, backend: {echo: {}}, timeouts: {firstToken: 10m}, conversations: {maxTokens: 100}}"),
    (
        "demo",
        "{model: m, backend: {openai: {proxyURL: 'http://proxy.example.com:3128', caBundleConfigMapRef: {name: private-ca.v1}}}}",
    ),
    ("demo", "{model: m, backend: {openai: {proxyURL: 'https://[2001:db8::1]:443/'}}}"),
    ("demo", "{model: m, backend: {openai: {proxyURL: ''}}, telemetry: {otlpEndpoint: ''}}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, telemetry: {otlpEndpoint: 'http://otel-collector.observability.svc:4318'}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, telemetry: {otlpEndpoint: 'https://otlp.example.com/otlp'}}"),
    ("demo", "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 1}}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, autoscaling: {minReplicas: 2, maxReplicas: 10, targetCPUUtilizationPercentage: 70, targetMemoryUtilizationPercentage: 80, behavior: {scaleDown: {stabilizationWindowSeconds: 60, policies: [{type: Pods, value: 1, periodSeconds: 30}]}}}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 4, metrics: [{type: Pods, pods: {metric: {name: chat_requests_in_flight}, target: {type: AverageValue, averageValue: 20}}}]}, resources: {}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, autoscaling: {maxReplicas: 4, targetCPUUtilizationPercentage: 150}, resources: {limits: {cpu: 1}}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, pod: {annotations: {example.com/owner: 'anything at all'}, labels: {team: search, example.com/x: ''}, nodeSelector: {kubernetes.io/arch: amd64}, tolerations: [{key: dedicated, operator: Equal, value: chat, effect: NoSchedule}], priorityClassName: '', imagePullSecrets: [{name: a}, {name: b}], terminationGracePeriodSeconds: 86400}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, pod: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/instance: demo}}}]}}, topologySpreadConstraints: [{topologyKey: topology.kubernetes.io/zone, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway}]}}",
    ),
    (
        "demo",
        "{model: m, backend: {echo: {}}, service: {annotations: {service.beta.kubernetes.io/aws-load-balancer-internal: 'true'}}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, networkPolicy: {enabled: false}}"),
    (
        "demo",
        "{model: m, backend: {echo: {}}, networkPolicy: {enabled: true, ingressFrom: [{podSelector: {}}], scrapeFrom: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [obs]}]}, podSelector: {}}], egressTo: [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16, 10.0.0.0/8]}, ports: [443]}, {ipBlock: {cidr: '2001:db8::/32'}}]}}",
    ),
    ("demo", "{model: m, backend: {echo: {}}, service: {port: 443, tls: {secretRef: {name: demo-tls.v1}}}}"),
];
