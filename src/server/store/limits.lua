-- What admit.lua and settle.lua share, in front of both: the clock, the demands of a request, the rules of
-- server::limits, and which reservations are known. What is stored is not trusted: what is not ours counts as nothing, and
-- is replaced. Redis refuses a script's first write where it refuses writes at all, so a script writes all or nothing.
-- ARGV[1] is the life of keys in ms.
local MINUTE, DAY = 60000000, 86400000000
-- The largest whole number up to which all are exact.
local MOST = 9007199254740991
-- Expired reservations that one script puts in order; each adds one at most.
local SWEEP = 16

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local key_life = tonumber(ARGV[1])
-- Times later than this are not ours, or of before the clock stepped back.
local horizon = now + key_life * 1000

-- Not `..`, which rounds to 14 digits.
local function text(number)
  return string.format('%.0f', number)
end

local function clamp(number, least, most)
  return math.max(least, math.min(most, number))
end

-- A stored whole number, or what it is otherwise.
local function stored_number(stored, otherwise)
  local number = type(stored) == 'string' and tonumber(stored)
  if not number or number ~= number then
    return otherwise
  end
  return math.floor(clamp(number, -MOST, MOST))
end

-- Whole numbers of a stored text of this form, or nothing.
local function stored_numbers(key, pattern)
  local stored = redis.pcall('GET', key)
  if type(stored) ~= 'string' then
    return
  end
  local a, b, c = string.match(stored, pattern)
  if a then
    return stored_number(a, 0), stored_number(b, 0), stored_number(c, 0)
  end
end

local argument, key = 1, 0
local function next_argument()
  argument = argument + 1
  return ARGV[argument]
end
local function next_number()
  return tonumber(next_argument())
end
local function next_key()
  key = key + 1
  return KEYS[key]
end

-- KEYS[1] and KEYS[2]: records of reservations.
local records = {next_key(), next_key()}

-- What one request takes. From ARGV its id, the life of its reservation in µs; of its limits, 0 where it has none: µs in
-- which a request refills, µs in which an empty bucket fills; requests at the same time; tokens a minute, tokens; a
-- budget's period (D, W or M), amount, worst case. From KEYS only those of the limits that it has.
local function next_demand()
  local demand = {id = next_argument(), life = next_number()}
  local interval, bucket = next_number(), next_number()
  if interval > 0 then
    demand.requests = {key = next_key(), interval = interval, bucket = bucket}
  end
  local most = next_number()
  if most > 0 then
    demand.leases = {key = next_key(), most = most}
  end
  local size, tokens = next_number(), next_number()
  if size > 0 then
    demand.tokens = {key = next_key(), size = size, taken = math.min(tokens, size)}
  end
  local period, amount, worst = next_argument(), next_number(), next_number()
  if period ~= '0' then
    demand.budget = {key = next_key(), open = next_key(), period = period, amount = amount, worst = worst}
  end
  return demand
end

-- Requests: when the bucket is full. Never before now, never further ahead than an empty bucket and its debt.
local function full_at(limit)
  local stored = stored_number(redis.pcall('GET', limit.key), now)
  return clamp(stored, now, now + limit.bucket * 2)
end

local function charge_requests(limit, at, requests)
  at = math.min(at + limit.interval * requests, now + limit.bucket * 2)
  redis.call('SET', limit.key, text(at), 'PX', ARGV[1])
  return at
end

-- Tokens: whole ones and parts of the next.
local function read_tokens(limit)
  local tokens, part, at = stored_numbers(limit.key, '^(%-?%d+) (%d+) (%d+)$')
  if not tokens then
    return limit.size, 0
  end
  local passed = math.max(0, now - at)
  local rest = passed % MINUTE
  -- Whole minutes apart, or the product is too large to be exact.
  local parts = math.min(part, MINUTE - 1) + rest * limit.size
  local gained = (passed - rest) / MINUTE * limit.size + math.floor(parts / MINUTE)
  tokens = math.max(tokens, -60 * limit.size) + gained
  if tokens >= limit.size then
    return limit.size, 0
  end
  return tokens, parts % MINUTE
end

local function take_tokens(limit, tokens, part, taken)
  tokens = math.max(tokens - taken, -60 * limit.size)
  if tokens >= limit.size then
    tokens, part = limit.size, 0
  end
  redis.call('SET', limit.key, text(tokens) .. ' ' .. text(part) .. ' ' .. text(now), 'PX', ARGV[1])
  return tokens, part
end

-- Sorted sets of what expires, by when.
local function expired(set)
  local members = redis.pcall('ZRANGEBYSCORE', set, '-inf', text(now), 'LIMIT', 0, SWEEP)
  return members.err and {} or members
end

local function put_in_order(set, gone)
  if redis.call('TYPE', set).ok ~= 'zset' then
    redis.call('UNLINK', set)
  end
  for _, member in ipairs(gone) do
    redis.call('ZREM', set, member)
  end
end

-- Budget: a period is told by its first day, in days since 1970.
local function month_start(day)
  -- https://howardhinnant.github.io/date_algorithms.html#civil_from_days
  local of_era = (day + 719468) % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  return day - (of_year - math.floor((153 * month + 2) / 5))
end

local function period_start(period, day)
  if period == 'D' then
    return day
  end
  -- The first day of 1970 was a Thursday.
  return period == 'W' and day - (day + 3) % 7 or month_start(day)
end

local function period_end(period, start)
  if period == 'D' then
    return start + 1
  end
  return period == 'W' and start + 7 or month_start(start + 31)
end

local function open_name(demand)
  return demand.id .. ':' .. text(demand.budget.worst)
end

local function read_account(budget)
  local start = period_start(budget.period, math.floor(now / DAY))
  local finish = period_end(budget.period, start)
  local stored, spent, reserved = stored_numbers(budget.key, '^(%d+) (%d+) (%d+)$')
  local account = {start = start, spent = 0, reserved = 0, expired = {}, new = true}
  if stored and stored >= start then
    account.start = stored <= finish and stored or start
    account.spent, account.reserved, account.new = spent, reserved, false
    account.expired = expired(budget.open)
    for _, member in ipairs(account.expired) do
      local worst = stored_number(string.match(member, ':(%d+)$'), 0)
      account.reserved = math.max(0, account.reserved - worst)
      account.spent = math.min(account.spent + worst, MOST)
    end
  end
  return account
end

-- Also takes what has expired, and all that is of an earlier period, from what is open. The account outlives its period
-- and what was reserved in it.
local function write_account(budget, account, life)
  local left = period_end(budget.period, account.start) * DAY - now + life
  local px = text(math.max(key_life, math.ceil(left / 1000)))
  account.spent, account.reserved = math.min(account.spent, MOST), math.min(account.reserved, MOST)
  local value = text(account.start) .. ' ' .. text(account.spent) .. ' ' .. text(account.reserved)
  redis.call('SET', budget.key, value, 'PX', px)
  if account.new then
    redis.call('UNLINK', budget.open)
  end
  put_in_order(budget.open, account.expired)
  return px
end

-- Records: what is known of an id, in one of two hashes that take turns. Each is begun anew when everything in it may be
-- forgotten, so that nothing is swept one by one. `keep` is until when something in it is to be remembered: for as long
-- again as a reservation lives, since a settlement may have had to wait for Redis to be back.
-- 's': settled, or nothing to settle. 'h': one request was charged. 'o' and the day on which a budget's period began:
-- all is reserved.
local function read_record(id)
  local record = {}
  for i, hash in ipairs(records) do
    local read = redis.pcall('HMGET', hash, 'keep', id)
    local keep = read.err and 0 or stored_number(read[1], 0)
    record[i] = {hash = hash, keep = keep <= horizon and keep or 0, value = not read.err and read[2]}
  end
  record.value = record[1].value or record[2].value
  return record
end

local function write_record(record, demand, value)
  local young, old = record[1], record[2]
  if old.keep > young.keep then
    young, old = old, young
  end
  if old.keep <= now then
    redis.call('UNLINK', old.hash)
    young, old = old, young
  end
  local keep = math.max(young.keep, now + demand.life * 2)
  redis.call('HSET', young.hash, 'keep', text(keep), demand.id, value)
  if young.keep <= now then
    redis.call('PEXPIRE', young.hash, ARGV[1])
  end
  if old.value then
    redis.call('HDEL', old.hash, demand.id)
  end
end
