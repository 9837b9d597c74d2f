-- In front of scripts that need the time and no limits: `now`, µs of Redis' clock.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
