-- push_ready: adds accepted executions of one project to its ready set, and wakes a drain if one of them is due.
-- ARGV    2 project  3… pairs of (when the execution may be claimed, in ms, empty: now; execution)
-- writes  ready, ready:<project>, drains, grants:<holder>
-- returns how many executions of the project are in the set
-- promises  Adding an execution again changes only its time.

local SOON_MS = 1000  -- a drain that is woken waits for the rest, and learns of the next execution once a second anyway

local first
for at = 3, #ARGV, 2 do
  local not_before = tonumber(ARGV[at]) or now
  call('ZADD', ready_of(ARGV[2]), text(not_before), ARGV[at + 1])
  first = math.min(first or math.huge, not_before)
end
if first then
  call('ZADD', READY, 'LT', text(first), ARGV[2])
  if first <= now + SOON_MS then wake_drain() end
end
return call('ZCARD', ready_of(ARGV[2]))
