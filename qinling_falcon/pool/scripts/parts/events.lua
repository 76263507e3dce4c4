-- events: the last things that happened to workers and leases, with their reasons, for the operator. A warm call has no
-- event.

local EVENTS = P .. 'events'
local MOST_EVENTS = 2000  -- about; the oldest go first

-- Records an event. `about` may have worker, runtime, target, execution and holder.
local function note(event, reason, about)
  call('XADD', EVENTS, 'MAXLEN', '~', MOST_EVENTS, '*', 'event', event, 'reason', reason or '', 'worker',
    about.worker or '', 'runtime', about.runtime or '', 'target', about.target or '', 'execution',
    about.execution or '', 'holder', about.holder or '')
end
