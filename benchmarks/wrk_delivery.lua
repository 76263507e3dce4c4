-- Sends deliveries with wrk, each with an id of its own, and prints one JSON line of what it measured (as wrk_call.lua).
-- Environment: BODY, HEADERS ("Name: value|…").
dofile((debug.getinfo(1, 'S').source:match('^@(.*/)') or './') .. 'wrk_call.lua')

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set('number', threads)
end

function init()
  count, run = 0, string.format('%d-%d-', os.time(), number)
end

function request()
  count = count + 1
  wrk.headers['X-GitHub-Delivery'] = run .. count
  return wrk.format()
end
