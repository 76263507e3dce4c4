-- escalate: asks for one more worker, because calls of a process have waited too long for a worker of their target.
-- ARGV    2 holder  3 queue  4 the change of its number of waiting calls, as in leave
--         5 for how many ms the oldest of them has waited  6 for how many ms a call keeps a worker busy, or ''
-- reads   concurrency, held, policy, idle:<target>, warm:<runtime>
-- writes  the entry of the holder, busy, escalated:<runtime> or blocked:, wakeups; for queues that are served now their
--         entries, what lease writes, grants:<holder>
-- returns 1: the queue is escalated, or its calls were offered workers; 0: a limit blocks it
-- promises  The calls get all idle workers of their target before a warm one. A target without a worker gets a warm
--           one. Other targets get one while more than one warm worker remains.

local runtime, target, project_id = parse_queue(ARGV[3])
change_entry(ARGV[3], ARGV[2], ARGV[4], now - tonumber(ARGV[5]))
if ARGV[6] ~= '' and held_by(target) > 0 then call('HSET', BUSY, target, ARGV[6]) end
-- Calls that waited in their process did not ask for idle workers, so there may be several of these.
local how = 'served'
for _ = 1, LOOK_AT do
  if call('EXISTS', P .. 'queue:' .. ARGV[3]) == 0 then return 1 end
  how = serve(ARGV[3])
  if how ~= 'served' then break end
end
if how == 'blocked' then
  block(ARGV[3], runtime, project_id)
  return 0
end
if call('EXISTS', P .. 'queue:' .. ARGV[3]) == 0 then return 1 end
escalate(ARGV[3])
give_all_warm(runtime, 1)
return 1
