-- events: the last events of workers and leases, with their reasons, for the operator. A warm call makes no event.

local EVENTS = P .. 'events'
local MOST_EVENTS = 2000  -- approximately; the oldest events are removed

-- Records an event. `ids` may have worker, runtime, target, execution and holder.
local function note(event, reason, ids)
  call('XADD', EVENTS, 'MAXLEN', '~', MOST_EVENTS, '*', 'event', event, 'reason', reason or '', 'worker',
    ids.worker or '', 'runtime', ids.runtime or '', 'target', ids.target or '', 'execution', ids.execution or '',
    'holder', ids.holder or '')
end
