-- Ends reservations: corrects what was reserved to what was used, and charges what was not reserved.
-- Behind limits.lua and each.lua.
-- In: limits.lua's, for each request; each followed in ARGV by whether it is charged if nothing is known of it (1 or 0), the
-- requests that are then charged, the tokens and the money that were used.
-- Returns: now, and for each request when its bucket of requests is full, or 0 where no request was charged.
local function settle_money(demand, value, cost)
  local budget = demand.budget
  local rules = each()
  local account = rules.read_account(budget)
  local start = tonumber(string.match(value or '', '^o(%d+)$') or MOST)
  if start < account.start then
    -- Its period is over, and so is that account.
    return
  end
  if start == account.start and not account.new then
    local name = rules.open_name(demand)
    local open = pcall('ZREM', budget.open, name) == 1
    for _, member in ipairs(account.expired) do
      open = open and member ~= name
    end
    if open then
      account.reserved = math.max(0, account.reserved - budget.worst)
    else
      -- It expired and counts as spent.
      account.spent = math.max(0, account.spent - budget.worst)
    end
  end
  account.spent = account.spent + cost
  rules.write_account(budget, account, demand.life)
end

local answer = {now}
while argument < #argv do
  local demand = next_demand()
  local unknown_too, requests = next_argument() == '1', next_number()
  local used, cost = next_number(), next_number()
  local value = known[demand.id]
  local at = 0
  if value ~= 's' and (value or unknown_too) then
    note(demand.id, 's')
    if demand.leases or demand.budget then
      write_first()
    end
    if demand.interval and not value then
      at = charge_requests(demand, full_at(demand), requests)
    end
    if demand.size then
      local open = value and value ~= 'h'
      local tokens, part = read_tokens(demand)
      take_tokens(demand, tokens, part, used - (open and demand.taken or 0))
    end
    if demand.leases then
      each().put_in_order(demand.leases, {demand.id})
    end
    if demand.budget then
      settle_money(demand, value, cost)
    end
  end
  answer[#answer + 1] = at
end
write_notes()
write_rates()
return answer
