-- What admit.lua, settle.lua and budgets.lua share, in front of each: the clock, the demands of a request, the rules of
-- server::limits, and which reservations are known. What is stored is not trusted: what is not ours counts as nothing, and
-- is replaced. Redis refuses a script's first write where it refuses writes at all, so a script writes all or nothing: where
-- that write is not one which even a full Redis runs.
-- ARGV[1] is the life of keys in ms. Behind it follow how many records there are, and for each how many ids it is asked for, and
-- those: the ids of all requests, in order. KEYS begin with the records.
local call, pcall, format, floor = redis.call, redis.pcall, string.format, math.floor
local keys, argv = KEYS, ARGV
local MINUTE = 60000000
-- The largest whole number up to which all are exact.
local MOST = 9007199254740991
local time = call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local key_life = tonumber(argv[1])
-- Times later than this are not ours, or of before the clock stepped back.
local horizon = now + key_life * 1000

-- Not `..`, which rounds to 14 digits.
local function text(number)
  return format('%.0f', number)
end

local function clamp(number, least, most)
  return number < least and least or number > most and most or number
end

-- A stored whole number, or what it is otherwise.
local function stored_number(stored, otherwise)
  local number = type(stored) == 'string' and tonumber(stored)
  if not number or number ~= number then
    return otherwise
  end
  return floor(clamp(number, -MOST, MOST))
end

local argument, key = 1, 0
local function next_argument()
  argument = argument + 1
  return argv[argument]
end
local function next_number()
  argument = argument + 1
  return tonumber(argv[argument])
end
local function next_key()
  key = key + 1
  return keys[key]
end

-- How the rates of a caller stand: `at`, when the bucket of requests is full; `tokens`, whole ones, `part`, parts of the
-- next one, `since`, when it was so. Read once and written once, however many requests of one caller there are.
local rates = {}
local function read_rates(name)
  local rate = rates[name]
  if not rate then
    local stored = pcall('GET', name)
    local at, tokens, part, since
    if type(stored) == 'string' then
      at, tokens, part, since = string.match(stored, '^(%-?%d+) (%-?%d+) (%d+) (%d+)$')
    end
    rate = {
      at = stored_number(at, now),
      tokens = stored_number(tokens, 0),
      part = stored_number(part, 0),
      -- 0: nothing was ever taken of the tokens.
      since = stored_number(since, 0),
    }
    rates[name] = rate
  end
  return rate
end

local function write_rates()
  for name, rate in pairs(rates) do
    if rate.changed then
      call('SET', name, format('%.0f %.0f %.0f %.0f', rate.at, rate.tokens, rate.part, rate.since), 'PX', argv[1])
    end
  end
end

-- Records: what is known of an id, a field of a hash. 's': settled, or nothing to settle. 'h': one request was charged.
-- 'o' and the day on which a budget's period began: all is reserved. All ids of a script are read in one command and written in
-- one: a command costs more than what is decided of a request.
local ids, known, records, record_of = {}, {}, {}, {}
for number = 1, next_number() do
  local record = {key = next_key(), fields = {}}
  local count = next_number()
  local stored = pcall('HMGET', record.key, unpack(argv, argument + 1, argument + count))
  local before = #ids
  for index = 1, count do
    local id, value = argv[argument + index], stored[index]
    ids[before + index], record_of[id] = id, record
    known[id] = type(value) == 'string' and value
  end
  argument = argument + count
  records[number] = record
end

-- From now on this is known of it.
local function note(id, value)
  known[id] = value
  local fields = record_of[id].fields
  local last = #fields
  fields[last + 1], fields[last + 2] = id, value
end

local function write_notes()
  for _, record in ipairs(records) do
    if #record.fields > 0 then
      local told = pcall('HSET', record.key, unpack(record.fields))
      if type(told) ~= 'number' then
        -- Any other error is raised by the second try: an UNLINK, which a full Redis runs, would let all writes behind it through.
        if string.find(told.err, '^WRONGTYPE') then
          call('UNLINK', record.key)
        end
        call('HSET', record.key, unpack(record.fields))
      end
      call('PEXPIRE', record.key, argv[1])
      record.fields = {}
    end
  end
end

-- Called in front of commands that a full Redis would run, such as ZREM: by then it has refused the script, or will not.
local written = false
local function write_first()
  if not written then
    write_notes()
    written = true
  end
end

-- What one request takes. From ARGV whether its limits are others than those of the one before it (1 or 0). If so, they
-- follow; 0 where there is none: the life of a reservation in µs; µs in which a request refills, µs in which an empty
-- bucket fills; requests at the same time; tokens a minute; a budget's period (D, W or M) and amount; whether limits are
-- enforced (1 or 0). Then tokens, where there is a bucket of them, and the worst case, where there is a budget. From KEYS, with
-- limits that are told, the rates where it takes of one, and those of the other limits that it has.
-- It is the same table each time: one request after the other.
local request, demand = 0
local function next_demand()
  request = request + 1
  if next_argument() == '1' then
    demand = {life = next_number()}
    local interval, bucket, most, size = next_number(), next_number(), next_number(), next_number()
    local period, amount = next_argument(), next_number()
    demand.enforce = next_argument() == '1'
    if interval > 0 or size > 0 then
      demand.rate = read_rates(next_key())
      demand.interval = interval > 0 and interval
      demand.bucket = bucket
      demand.size = size > 0 and size
    end
    if most > 0 then
      demand.leases, demand.most = next_key(), most
    end
    if period ~= '0' then
      demand.budget = {key = next_key(), open = next_key(), period = period, amount = amount}
    end
  end
  demand.id = ids[request]
  if demand.size then
    demand.taken = math.min(next_number(), demand.size)
  end
  if demand.budget then
    demand.budget.worst = next_number()
  end
  return demand
end

-- Requests: when the bucket is full. Never before now, never further ahead than an empty bucket and its debt.
local function full_at(demand)
  return clamp(demand.rate.at, now, now + demand.bucket * 2)
end

local function charge_requests(demand, at, requests)
  local rate = demand.rate
  at = clamp(at + demand.interval * requests, now, now + demand.bucket * 2)
  rate.at, rate.changed = at, true
  return at
end

-- Tokens: whole ones and parts of the next.
local function read_tokens(demand)
  local rate, size = demand.rate, demand.size
  if rate.since == 0 then
    return size, 0
  end
  local passed = now > rate.since and now - rate.since or 0
  local rest = passed % MINUTE
  -- Whole minutes apart, or the product is too large to be exact.
  local parts = (rate.part < MINUTE and rate.part or MINUTE - 1) + rest * size
  local gained = (passed - rest) / MINUTE * size + floor(parts / MINUTE)
  local tokens = (rate.tokens > -60 * size and rate.tokens or -60 * size) + gained
  if tokens >= size then
    return size, 0
  end
  return tokens, parts % MINUTE
end

local function take_tokens(demand, tokens, part, taken)
  local rate, size = demand.rate, demand.size
  tokens = math.max(tokens - taken, -60 * size)
  if tokens >= size then
    tokens, part = size, 0
  end
  rate.tokens, rate.part, rate.since, rate.changed = tokens, part, now, true
  return tokens, part
end
