-- Reserves all that a request takes or nothing, and looks for a cached answer; a hit takes one request only. One request
-- after the other: those that come together share a trip, and each is decided as if it had come alone.
-- Behind limits.lua, each.lua, lock.lua and share.lua.
-- In: limits.lua's; then in ARGV a lease in µs, and how many answers are looked for, which the next of KEYS are. For each request
-- limits.lua's; then in ARGV what of the cache: `look` for the next answer, `share` (as well; then the next of KEYS is its lock, and in
-- ARGV follows an id), `hit` (it was found elsewhere), or nothing.
-- Returns now, and behind it nine for each request: which limit refuses (0 none, 1 requests, 2 concurrency, 3 tokens, 4 budget,
-- 5 budget reserved by others), when the bucket of requests is full, tokens, parts of the next one, spent, reserved, the answer,
-- and what share() says. A refusal writes nothing.
local NO_ACCOUNT = {spent = 0, reserved = 0}
local lease = next_number()

-- Which limit but that of requests refuses.
local function refusing(demand, tokens, account)
  local leases, budget = demand.leases, demand.budget
  if leases then
    local count = pcall('ZCOUNT', leases, '(' .. text(now), text(horizon))
    if type(count) == 'number' and count >= demand.most then
      return 2
    end
  end
  if demand.size and tokens < demand.taken then
    return 3
  end
  if budget then
    if account.spent + budget.worst > budget.amount then
      return 4
    elseif account.spent + account.reserved + budget.worst > budget.amount then
      return 5
    end
  end
  return 0
end

local function take_each(demand, account)
  local rules, leases, budget = each(), demand.leases, demand.budget
  if leases then
    rules.put_in_order(leases, rules.expired(leases))
    call('ZADD', leases, text(now + demand.life), demand.id)
    call('PEXPIRE', leases, argv[1])
  end
  if budget then
    account.reserved = account.reserved + budget.worst
    local px = rules.write_account(budget, account, demand.life)
    call('ZADD', budget.open, text(now + demand.life), rules.open_name(demand))
    call('PEXPIRE', budget.open, px)
  end
end

-- What is told of one request, behind what was told of those before it.
local told = {now}
local function tell(refused, at, tokens, part, account, cached, sharing, failure)
  local last = #told
  told[last + 1], told[last + 2], told[last + 3], told[last + 4] = refused, at, tokens, part
  told[last + 5], told[last + 6] = account.spent, account.reserved
  told[last + 7], told[last + 8], told[last + 9] = cached, sharing, failure
end

local function admit(demand, cached, hit, lock, sharer)
  local enforce, known_of = demand.enforce, known[demand.id]
  local refused = 0
  local at, tokens, part, account = 0, 0, 0, NO_ACCOUNT
  if demand.interval then
    at = full_at(demand)
    if at + demand.interval - now > demand.bucket then
      refused = 1
    end
  end
  if demand.size then
    tokens, part = read_tokens(demand)
  end
  if demand.budget then
    account = each().read_account(demand.budget)
  end
  if refused == 1 then
    -- A script that was given up runs when Redis thaws, perhaps after the request was settled.
    if known_of then
      refused = 0
    elseif enforce then
      return tell(refused, at, tokens, part, account, false, false, false)
    end
  end
  if not hit and refused == 0 then
    -- Of several limits the first is told.
    refused = refusing(demand, tokens, account)
    if refused > 0 then
      if known_of and known_of ~= 'h' then
        refused = 0
      elseif enforce then
        return tell(refused, at, tokens, part, account, false, false, false)
      end
    end
  end

  local one_by_one = demand.leases or demand.budget
  local value = hit and 'h' or 'o'
  if not (demand.size or one_by_one) then
    value = 's'
  elseif demand.budget and not hit then
    value = value .. text(account.start)
  end
  if not known_of and demand.interval then
    at = charge_requests(demand, at, 1)
  end
  local takes = not hit and (not known_of or known_of == 'h')
  if takes or not known_of then
    note(demand.id, value)
  end
  if takes then
    if demand.size then
      tokens, part = take_tokens(demand, tokens, part, demand.taken)
    end
    if one_by_one then
      write_first()
      take_each(demand, account)
    end
  end
  local sharing, failure = false, false
  if lock and not cached then
    sharing, failure = share(lock, sharer, lease)
  end
  tell(refused, at, tokens, part, account, cached, sharing, failure)
end

-- What is not a text is no answer, as what is not there.
local stored, answer = {}, 0
local many = next_number()
if many > 0 then
  stored = call('MGET', unpack(keys, key + 1, key + many))
  key = key + many
end
while argument < #argv do
  local demand, cache = next_demand(), next_argument()
  local cached, lock, sharer = false
  if cache == 'look' or cache == 'share' then
    answer = answer + 1
    cached = stored[answer]
  end
  if cache == 'share' then
    lock, sharer = next_key(), next_argument()
  end
  admit(demand, cached, cached or cache == 'hit', lock, sharer)
end
write_notes()
write_rates()
return told
