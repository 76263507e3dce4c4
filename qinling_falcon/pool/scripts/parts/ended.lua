-- ended: which processes watch which executions, because their requests wait for the end.
--
-- `watched` has all watched executions, each with the time until which it is watched. `watchers:<execution>` has the
-- processes that watch it, and expires at that time. A process renews what it watches. A notification ends the watch,
-- and is a hint: the process reads the execution again, and watches it again if it has not ended.
-- include: queues

local WATCHED = P .. 'watched'

local function watchers_of(execution)
  return P .. 'watchers:' .. execution
end

-- Notifies the processes that watch one of the executions. Costs one command if none of them is watched.
local function notify_ended(executions)
  local watched, ended_of = call('ZMSCORE', WATCHED, unpack(executions)), {}
  for at, execution in ipairs(executions) do
    if watched[at] then
      for _, holder in ipairs(call('SMEMBERS', watchers_of(execution))) do
        ended_of[holder] = ended_of[holder] or {}
        table.insert(ended_of[holder], execution)
      end
      call('DEL', watchers_of(execution))
      call('ZREM', WATCHED, execution)
    end
  end
  for holder, ended in pairs(ended_of) do notify(holder, '', 'ended', unpack(ended)) end
end
