-- Reads a conversation and renews its life.
-- KEYS[1] the conversation, as append_turn.lua has it; ARGV[1] life in ms, 0: as it is.
-- Behind clock.lua. Returns now, and the fields.
local found = redis.call('HGETALL', KEYS[1])
if #found > 0 and ARGV[1] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return {now, found}
