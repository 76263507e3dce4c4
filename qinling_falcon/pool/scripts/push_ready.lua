-- push_ready: adds accepted executions of one project to the ready sets, and wakes a drain if one of them is due soon.
-- ARGV    2 project  3… triples of (when the execution may be claimed, in ms, empty: now; function; execution)
-- writes  turns, turns:<project>, queued:<project>:<function>, backlogs, drains, grants:<holder>
-- promises  Adding an execution again changes only its time.

local SOON_MS = 1000  -- a woken drain waits until it is due; later ones need no message, as drains look once a second

local project_id, added, first = ARGV[2], 0, nil
for at = 3, #ARGV, 3 do
  local not_before, function_id = tonumber(ARGV[at]) or now, ARGV[at + 1]
  added = added + call('ZADD', executions_of(project_id, function_id), text(not_before), ARGV[at + 2])
  -- Not in the past: the sweep pushes old executions, and a function that was served just now must not come first.
  not_before = math.max(not_before, now)
  call('ZADD', functions_of(project_id), 'LT', text(not_before), function_id)
  first = math.min(first or math.huge, not_before)
end
if first then
  count_backlog(project_id, added)
  call('ZADD', TURNS, 'LT', text(first), project_id)
  if first <= now + SOON_MS then wake_drain() end
end
