-- Reserves all that a request takes or nothing, and looks for a cached answer; a hit takes one request only. One request
-- after the other: those that come together share a trip, and each is decided as if it had come alone.
-- Behind limits.lua, each.lua and share.lua.
-- In: ARGV[2] a lease in µs. For each request limits.lua's; then in ARGV what of the cache: `look` (then the next of KEYS is
-- the answer), `share` (then it and its lock are, and in ARGV follows an id), `hit` (it was found elsewhere), or nothing.
-- Returns now, and for each request: which limit refuses (0 none, 1 requests, 2 concurrency, 3 tokens, 4 budget, 5 budget
-- reserved by others), when the bucket of requests is full, tokens, parts of the next one, spent, reserved, the answer, and
-- what share() says. A refusal writes nothing.
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
    call('PEXPIRE', leases, ARGV[1])
  end
  if budget then
    account.reserved = account.reserved + budget.worst
    local px = rules.write_account(budget, account, demand.life)
    call('ZADD', budget.open, text(now + demand.life), rules.open_name(demand))
    call('PEXPIRE', budget.open, px)
  end
end

-- The last of what is told are the answer and what share() says.
local function admit(demand, cache, answer_key, lock, sharer)
  local enforce = demand.enforce
  local refused, known = 0, false
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
    known = recorded(demand)
    if known then
      refused = 0
    elseif enforce then
      return {refused, at, tokens, part, account.spent, account.reserved, false, false, false}
    end
  end

  local cached = answer_key and pcall('GET', answer_key)
  cached = type(cached) == 'string' and cached
  local hit = cached or cache == 'hit'
  if not hit and refused == 0 then
    -- Of several limits the first is told.
    refused = refusing(demand, tokens, account)
    if refused > 0 then
      known = known or recorded(demand)
      if known and known ~= 'h' then
        refused = 0
      elseif enforce then
        return {refused, at, tokens, part, account.spent, account.reserved, false, false, false}
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
  local new = record_new(demand, value)
  known = not new and (known or recorded(demand))
  if new and demand.interval then
    at = charge_requests(demand, 1)
  end
  if not hit and (new or known == 'h') then
    if not new then
      call('HSET', demand.record, demand.id, value)
    end
    if demand.size then
      tokens, part = take_tokens(demand, demand.taken)
    end
    if one_by_one then
      take_each(demand, account)
    end
  end
  local share_told, share_error = false, false
  if lock and not cached then
    local told = share(lock, sharer, lease)
    share_told, share_error = told[1], told[2]
  end
  return {refused, at, tokens, part, account.spent, account.reserved, cached, share_told, share_error}
end

local answers = {}
while argument < #ARGV do
  local demand, cache = next_demand(), next_argument()
  local answer_key, lock, sharer
  if cache == 'look' or cache == 'share' then
    answer_key = next_key()
  end
  if cache == 'share' then
    lock, sharer = next_key(), next_argument()
  end
  answers[#answers + 1] = admit(demand, cache, answer_key, lock, sharer)
end
write_rates()
return {now, answers}
