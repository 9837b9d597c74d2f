-- The rules of what is counted one by one: requests at the same time, and money. Behind limits.lua. Made when a request
-- first needs them: a script makes its functions anew each time it runs, and most requests have rates alone.
local one_by_one
local function each()
  if one_by_one then
    return one_by_one
  end
  local DAY = 86400000000
  -- Expired reservations that one script puts in order; each adds one at most.
  local SWEEP = 16

  -- Sorted sets of what expires, by when.
  local function expired(set)
    local members = pcall('ZRANGEBYSCORE', set, '-inf', text(now), 'LIMIT', 0, SWEEP)
    return members.err and {} or members
  end

  local function put_in_order(set, gone)
    local kind = call('TYPE', set).ok
    if kind ~= 'zset' and kind ~= 'none' then
      call('UNLINK', set)
    end
    for _, member in ipairs(gone) do
      call('ZREM', set, member)
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
    local written = pcall('GET', budget.key)
    local stored, spent, reserved
    if type(written) == 'string' then
      stored, spent, reserved = string.match(written, '^(%d+) (%d+) (%d+)$')
      stored = stored_number(stored)
    end
    local account = {start = start, spent = 0, reserved = 0, expired = {}, new = true}
    if stored and stored >= start then
      account.start = stored <= finish and stored or start
      account.spent, account.reserved, account.new = stored_number(spent), stored_number(reserved), false
      if account.reserved > 0 then
        local open = pcall('ZCARD', budget.open)
        if type(open) ~= 'number' or open == 0 then
          -- Evicted: by when they expire is not known any more, so they count as spent until they are settled.
          account.spent, account.reserved = account.spent + account.reserved, 0
        else
          account.expired = expired(budget.open)
        end
      end
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
    call('SET', budget.key, value, 'PX', px)
    if account.new then
      call('UNLINK', budget.open)
    end
    put_in_order(budget.open, account.expired)
    return px
  end

  one_by_one = {
    expired = expired, put_in_order = put_in_order, period_start = period_start, period_end = period_end,
    open_name = open_name, read_account = read_account, write_account = write_account,
  }
  return one_by_one
end
