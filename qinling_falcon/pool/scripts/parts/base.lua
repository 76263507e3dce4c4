-- base: the beginning of every script.
--
-- KEYS[1]  qf:{pool}, the anchor: all keys below begin with it, so all are on one node of a cluster.
-- ARGV[1]  now in ms, in tests only; empty: the server's own time.

local P = KEYS[1] .. ':'
local call = redis.call

local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Numbers as text without an exponent (tostring gives 1.7e+12).
local function text(number)
  return string.format('%.0f', number)
end

-- Wakes the pool manager. One note in the list is enough.
local WAKEUPS = P .. 'wakeups'
local function wake()
  if call('LLEN', WAKEUPS) == 0 then call('RPUSH', WAKEUPS, '1') end
end
