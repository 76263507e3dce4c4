-- base: the beginning of the library.
--
-- Redis runs the parts once, when it loads the library. They define constants and functions, and nothing that belongs
-- to one run of a script, except `call` and `now`, which each run sets anew.

local P = 'qf:{pool}:'  -- the beginning of all keys (ANCHOR in lua.py), so that all are on one node of a cluster
local call              -- redis.call, which does not exist while the library is loaded
local now               -- the time in ms

-- Registers a script as a function. `run` gets its arguments:
-- ARGV[1]  now in ms, in tests only; empty: the server's own time
-- ARGV[2]… what the header of the script names
local function register(script, flag, run)
  redis.register_function{
    function_name = LIBRARY .. '_' .. script,
    flags = {flag},
    callback = function(_, ARGV)
      call = redis.call
      if ARGV[1] ~= '' then
        now = tonumber(ARGV[1])
      else
        local time = call('TIME')
        now = time[1] * 1000 + math.floor(time[2] / 1000)
      end
      return run(ARGV)
    end,
  }
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
