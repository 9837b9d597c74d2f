-- Reserves all that a request takes or nothing, and looks for a cached answer; a hit takes one request only.
-- Behind limits.lua and share.lua.
-- In: limits.lua's; then ARGV whether limits are enforced (1 or 0), and what of the cache: `look` (then the last of KEYS is
-- the answer), `share` (then it and its lock are, and in ARGV follow an id and a lease in µs), `hit` (it was found
-- elsewhere), or nothing.
-- Returns: which limit refuses (0 none, 1 requests, 2 concurrency, 3 tokens, 4 budget, 5 budget reserved by others), now,
-- when the bucket of requests is full, tokens, parts of the next one, spent, reserved, the answer,
-- and what share() says. A refusal writes nothing.
local demand = next_demand()
local enforce, cache = next_argument() == '1', next_argument()
local requests, leases, limit, budget = demand.requests, demand.leases, demand.tokens, demand.budget
local record = read_record(demand.id)
-- A script that was given up runs when Redis thaws, perhaps after the request was settled.
local charged, reserved = record.value, record.value and record.value ~= 'h'
local refused = 0
local at, tokens, part, account = 0, 0, 0, {spent = 0, reserved = 0}

if requests then
  at = full_at(requests)
  if not charged and at + requests.interval - now > requests.bucket then
    refused = 1
  end
end
if limit then
  tokens, part = read_tokens(limit)
end
if budget then
  account = read_account(budget)
end
local function answer(cached)
  return {refused, now, at, tokens, part, account.spent, account.reserved, cached, false, false}
end
if refused == 1 and enforce then
  return answer(false)
end

local cached = false
local lock, sharer, lease
if cache == 'look' or cache == 'share' then
  cached = redis.pcall('GET', next_key())
  cached = type(cached) == 'string' and cached
end
if cache == 'share' then
  lock, sharer, lease = next_key(), next_argument(), tonumber(next_argument())
end
local function admitted()
  local told = answer(cached)
  if lock and not cached then
    local shared = share(lock, sharer, lease)
    told[9], told[10] = shared[1], shared[2]
  end
  return told
end
local hit = cached or cache == 'hit'

local lease_count
if not hit and not reserved then
  if leases then
    lease_count = redis.pcall('ZCOUNT', leases.key, '(' .. text(now), text(horizon))
    lease_count = type(lease_count) == 'number' and lease_count or 0
  end
  if refused > 0 then
    -- The first limit is told.
  elseif leases and lease_count >= leases.most then
    refused = 2
  elseif limit and tokens < limit.taken then
    refused = 3
  elseif budget and account.spent + budget.worst > budget.amount then
    refused = 4
  elseif budget and account.spent + account.reserved + budget.worst > budget.amount then
    refused = 5
  end
  if refused > 0 and enforce then
    return answer(false)
  end
end

if requests and not charged then
  at = charge_requests(requests, at, 1)
end
if hit or reserved then
  if not charged then
    write_record(record, demand, (limit or leases or budget) and 'h' or 's')
  end
  return admitted()
end
if limit then
  tokens, part = take_tokens(limit, tokens, part, limit.taken)
end
if leases then
  put_in_order(leases.key, expired(leases.key))
  redis.call('ZADD', leases.key, text(now + demand.life), demand.id)
  redis.call('PEXPIRE', leases.key, ARGV[1])
end
local value = (limit or leases or budget) and 'o' or 's'
if budget then
  account.reserved = account.reserved + budget.worst
  local px = write_account(budget, account, demand.life)
  redis.call('ZADD', budget.open, text(now + demand.life), open_name(demand))
  redis.call('PEXPIRE', budget.open, px)
  value = value .. text(account.start)
end
write_record(record, demand, value)
return admitted()
