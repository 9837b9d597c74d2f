-- Appends a whole turn to a conversation, adds up its totals, drops its oldest turns until the rest fits, renews its life.
-- KEYS[1] the conversation: a hash. Its fields: `tokens` and `cost` (totals of all turns), `at` (seconds since 1970),
--   `kept` (tokens of the turns that are kept), `oldest` and `last` (numbers of those turns), and each of them under its
--   number: its tokens, a blank, and what was said.
-- ARGV[1] '1' if this is the first turn; ARGV[2] turns to keep; ARGV[3] tokens to keep, -1: any; ARGV[4] life in ms;
-- ARGV[5] what was said; ARGV[6] its tokens; ARGV[7] tokens used; ARGV[8] cost in nano-dollars, '' where not known;
-- ARGV[9] µs of this clock after which nobody waits for the answer any more: a turn of which was told that it is not stored
-- must not be there once a frozen Redis thaws.
-- Behind clock.lua. Returns now, and 1; 0 where the conversation is gone, which a later turn does not bring back; 2 where it is too
-- late.
local key = KEYS[1]
if now > tonumber(ARGV[9]) then
  return {now, 2}
end
if ARGV[1] ~= '1' and redis.call('EXISTS', key) == 0 then
  return {now, 0}
end
local bounds = redis.call('HMGET', key, 'oldest', 'last')
local oldest, last = tonumber(bounds[1] or '1'), tonumber(bounds[2] or '0')
-- Every number in between is looked at: what is not ours must not make that many.
if not oldest or not last or not (last - oldest < 1000) then
  return redis.error_reply('GARBLED a conversation that is not one of ours')
end
redis.call('HINCRBY', key, 'tokens', ARGV[7])
if ARGV[8] ~= '' then
  redis.call('HINCRBY', key, 'cost', ARGV[8])
end
local kept = redis.call('HINCRBY', key, 'kept', ARGV[6])
last = redis.call('HINCRBY', key, 'last', 1)
redis.call('HSET', key, last, ARGV[6] .. ' ' .. ARGV[5], 'at', time[1])
local turns, tokens = tonumber(ARGV[2]), tonumber(ARGV[3])
while oldest <= last and (last - oldest >= turns or (tokens >= 0 and kept > tokens)) do
  local dropped = redis.call('HGET', key, oldest) or ''
  kept = redis.call('HINCRBY', key, 'kept', 0 - (tonumber(string.match(dropped, '^%d+')) or 0))
  redis.call('HDEL', key, oldest)
  oldest = oldest + 1
end
redis.call('HSET', key, 'oldest', oldest)
redis.call('PEXPIRE', key, ARGV[4])
return {now, 1}
