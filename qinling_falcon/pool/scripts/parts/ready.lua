-- ready: the accepted executions that no process has claimed, as far as Redis knows; the database has them all.
--
-- Each project has a set of its executions, with the time from which each one may be claimed. `ready` has the projects,
-- each with the time at which its turn comes. A drain is a process that claims and runs executions. A drain with room
-- for more, and nothing to take, is in `drains`, and a push wakes one of them.
-- include: queues

local READY, DRAINS = P .. 'ready', P .. 'drains'
local DRAIN_MS = 5000  -- a drain that has not asked for so long has died

local function ready_of(project_id)
  return P .. 'ready:' .. project_id
end

-- Wakes the drain that asked last.
local function wake_drain()
  local drain = call('ZPOPMAX', DRAINS)
  if drain[1] and now - tonumber(drain[2]) < DRAIN_MS then notify(drain[1], '', 'ready') end
end

-- When the first execution of a project may be claimed; nil: it has none.
local function first_of(project_id)
  return tonumber(call('ZRANGE', ready_of(project_id), 0, 0, 'WITHSCORES')[2])
end
