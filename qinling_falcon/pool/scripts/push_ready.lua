-- push_ready: adds accepted executions of one project to the ready sets, and wakes a drain if one of them is due.
-- ARGV    2 project  3… triples of (when the execution may be claimed, in ms, empty: now; function; execution)
-- writes  turns, turns:<project>, queued:<project>:<function>, backlogs, drains, grants:<holder>
-- promises  Adding an execution again changes only its time.

local SOON_MS = 1000  -- a drain that is woken waits for the rest, and learns of the next execution once a second anyway

local project_id, added, first = ARGV[2], 0, nil
for at = 3, #ARGV, 3 do
  local not_before, function_id = tonumber(ARGV[at]) or now, ARGV[at + 1]
  added = added + call('ZADD', executions_of(project_id, function_id), text(not_before), ARGV[at + 2])
  -- Not before now: the sweep adds old executions, and those that were served just now do not come first again.
  not_before = math.max(not_before, now)
  call('ZADD', functions_of(project_id), 'LT', text(not_before), function_id)
  first = math.min(first or math.huge, not_before)
end
if first then
  count_backlog(project_id, added)
  call('ZADD', TURNS, 'LT', text(first), project_id)
  if first <= now + SOON_MS then wake_drain() end
end
