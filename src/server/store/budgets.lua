-- How budgets stand. Writes nothing: what has expired is counted as spent and stays where it is.
-- Behind limits.lua and each.lua. In: for each budget its period (D, W or M) in ARGV, its account and what is open in it in KEYS.
-- Returns what is spent and what is reserved of each.
local rules = each()
local answer = {}
while argument < #ARGV do
  local account_key, open_key = next_key(), next_key()
  local account = rules.read_account({period = next_argument(), key = account_key, open = open_key})
  answer[#answer + 1] = {account.spent, account.reserved}
end
return answer
