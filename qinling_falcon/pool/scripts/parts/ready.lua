-- ready: the accepted executions that no process has claimed, as far as Redis knows; the database has them all.
--
-- Each function has a set of its executions, with the time from which each one may be claimed. Each project has a set
-- of its functions, and `turns` has the projects, each with the time at which its turn comes. `backlogs` has the number
-- of executions of each project.
--
-- A drain is a process that claims and runs executions. A drain with room for more, and nothing to take, is in
-- `drains`, and a push wakes one of them.
-- include: queues

local TURNS, BACKLOGS, DRAINS = P .. 'turns', P .. 'backlogs', P .. 'drains'
local DRAIN_MS = 5000  -- a drain that has not asked for so long has died

-- The functions of a project.
local function functions_of(project_id)
  return P .. 'turns:' .. project_id
end

-- The executions of a function. An execution of a process of an older release has the function ''.
local function executions_of(project_id, function_id)
  return P .. 'queued:' .. project_id .. ':' .. function_id
end

-- Wakes the drain that asked last.
local function wake_drain()
  local drain = call('ZPOPMAX', DRAINS)
  if drain[1] and now - tonumber(drain[2]) < DRAIN_MS then notify(drain[1], '', 'ready') end
end

-- The first time in a sorted set of times; nil: it is empty.
local function first_of(set)
  return tonumber(call('ZRANGE', set, 0, 0, 'WITHSCORES')[2])
end

-- Changes the number of executions of a project.
local function count_backlog(project_id, by)
  if by ~= 0 and call('HINCRBY', BACKLOGS, project_id, by) <= 0 then call('HDEL', BACKLOGS, project_id) end
end
