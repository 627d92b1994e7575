# An nginx with its own root, port and configuration, which a test starts and stops.
package Test::Memstat::Server;

use strict;
use warnings;

use parent 'Test::Memstat::Configuration';

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(make_path);
use File::Temp;
use IO::Socket::INET;
use JSON::PP;
use JSON::Validator;
use POSIX qw(:sys_wait_h);
use Test::More ();
use Text::ParseWords qw(shellwords);
use Time::HiRes qw(sleep time);

use Test::Memstat::Client;
use Test::Memstat::Configuration qw(binary module_path);
use Test::Memstat::Port qw(free_port);
use Test::Memstat::Proc qw(proc_status read_file);

my $SCHEMA = abs_path(dirname(__FILE__) . '/../../../..') . '/schema/memstat.schema.json';

# How long to wait for nginx to do something, in seconds. The test fails if it does not happen at all, but
# not because the machine is busy.
my $PATIENCE = 60;

# The freshness window, in seconds, with a margin: a process reuses a snapshot until it is 50 ms old.
my $WINDOW = 0.06;

# Takes the sections of a configuration: main_config, http_config, config (of the server block). Others:
# module (0: without the module; 'last': loaded after all others), module_copy (1: nginx loads a separate
# copy of the module), lua (0: without ngx_lua), env (NAME=value lines), binary (another nginx than the
# tested one), under (a command that runs nginx), log_level, user_files, timeout (memstat_timeout; see
# Configuration's timeout).
sub new {
    my ($class, %sections) = @_;
    my $root = File::Temp->newdir('memstat-XXXXXX', TMPDIR => 1, CLEANUP => !$ENV{TEST_NGINX_KEEP});
    chmod 0755, $root;
    make_path("$root/logs", "$root/html");
    my $self = bless {
        root => "$root", keep => $root, sections => {%sections},
        ports => [ map { free_port() } 1 .. 3 ], stopped => {}, old => {}, started_by => $$,
    }, $class;
    $self->write_files($sections{user_files} // '');
    $self->copy_module if $sections{module_copy};
    $self->write_conf;
    return $self;
}

sub root      { return $_[0]{root} }
sub port      { return $_[0]{ports}[ $_[1] // 0 ] }
sub base      { return 'http://127.0.0.1:' . $_[0]->port }
sub conf_path { return "$_[0]{root}/nginx.conf" }
sub module    { return module_path() }

# Returns whether nginx accepts the configuration, and its output.
sub check {
    my ($self) = @_;
    my $pid    = $self->_spawn('-t');
    my $status = $self->_reap($pid, $PATIENCE) // die "nginx -t does not end\n";
    return (!$status, $self->output);
}

# --- life ---

sub _spawn {
    my ($self, @args) = @_;
    die 'no module at ', module_path(), ": run make build\n" unless -e module_path();
    my $root = $self->{root};
    # The programs and libraries built for the test can be used here, too.
    my ($env, @under) = map { $self->expand($self->{sections}{$_} // '') } qw(env under);
    @under = map { shellwords($_) } @under;
    my $pid   = fork // die "cannot fork: $!\n";
    return $pid if $pid;
    for (split /\n/, $env) {
        $ENV{$1} = $2 if /^\s*(\w+)=(.*?)\s*$/;
    }
    open STDIN,  '<',  '/dev/null';
    open STDOUT, '>>', "$root/logs/output";
    open STDERR, '>&', \*STDOUT;
    my $binary = $self->{sections}{binary} // binary();
    { exec @under, $binary, '-p', "$root/", '-c', $self->conf_path, '-e', "$root/logs/error.log", @args }
    print STDERR "[emerg] cannot run $binary: $!\n";
    POSIX::_exit(127);
}

# Returns the exit status of a child, or undef if it still runs after the given time.
sub _reap {
    my ($self, $pid, $seconds) = @_;
    my $deadline = time + $seconds;
    while (1) {
        my $got = waitpid $pid, WNOHANG;
        return $? if $got == $pid;
        die "process $pid is not ours\n" if $got < 0;
        return undef if time > $deadline;
        sleep 0.01;
    }
}

sub start {
    my ($self) = @_;
    for my $try (1 .. 4) {
        $self->{master} = $self->_spawn;
        my $deadline = time + $PATIENCE;
        while (1) {
            if (defined $self->_reap($self->{master}, 0)) {
                delete $self->{master};
                last;
            }
            return $self if $self->_runs;
            die "nginx does not start:\n" . $self->output if time > $deadline;
            sleep 0.01;
        }
        # Another process may have taken the port since it was found to be free.
        die "nginx does not start:\n" . $self->output
            unless $try < 4 && $self->output =~ /Address already in use/;
        unlink "$self->{root}/logs/$_" for qw(error.log output);
        $self->{ports} = [ map { free_port() } 1 .. 3 ];
        $self->write_conf;
    }
}

# Returns whether all workers run, or the single process serves.
sub _runs {
    my ($self) = @_;
    my $main = $self->{sections}{main_config} // '';
    if ($main =~ /^\s*master_process\s+off/m) {
        my $port = $self->port;
        return -s "$self->{root}/nginx.pid"
            && IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 1);
    }
    my ($expected) = $main =~ /^\s*worker_processes\s+(\d+)/m;
    return $self->workers == ($expected // 1);
}

# Returns the descendants of a process.
sub descendants {
    my ($pid) = @_;
    return map { ($_, descendants($_)) } Test::Memstat::Proc::children($pid);
}

# Stops nginx. Returns a sentence for everything that went wrong.
sub stop {
    my ($self) = @_;
    my $master = delete $self->{master} or return;
    my @wrong;
    kill 'CONT', $_ for keys %{ $self->{stopped} };
    my @others = descendants($master);
    my $status;
    # Connections that a test left open delay QUIT.
    for my $step ([ QUIT => 3 ], [ TERM => $PATIENCE ], [ KILL => $PATIENCE ]) {
        my ($signal, $patience) = @$step;
        kill $signal, $master;
        $status = $self->_reap($master, $patience);
        last if defined $status;
        push @wrong, "nginx did not end after TERM" if $signal eq 'TERM';
    }
    push @wrong, 'nginx ended with status ' . ($status // 'unknown') if !@wrong && $status;
    # A master started by an upgrade of the binary runs on, and so do the workers of a killed master.
    my $names = sub { return (read_file("/proc/$_[0]/cmdline") // '') =~ /^nginx: / };
    kill 'TERM', $_ for grep { $names->($_) } @others;
    kill 'KILL', $_ for grep { @wrong && $names->($_) } @others;
    return @wrong;
}

sub DESTROY {
    my ($self) = @_;
    local ($?, $@, $!);
    $self->stop if $self->{started_by} == $$;
    return;
}

# --- processes ---

sub master   { return $_[0]{master} }
sub children { return Test::Memstat::Proc::children($_[0]{master}) }

# Returns the pids of the workers that are not shutting down. They are recognised by the title of the
# process, except under valgrind, where they cannot set it.
sub workers {
    my ($self) = @_;
    my $is_titled = ($self->{sections}{under} // '') !~ /^valgrind\b/;
    # Children that the master had before it started workers are other processes.
    my @children = $is_titled || $self->error_log =~ /start worker process / ? $self->children : ();
    return @children unless $is_titled;
    return grep { (read_file("/proc/$_/cmdline") // '') =~ /^nginx: worker process\0*$/ } @children;
}

sub signal {
    my ($self, $signal, $pid) = @_;
    $pid //= $self->{master};
    if ($signal eq 'HUP') { $self->{old}{$_} = 1 for $self->children }
    kill $signal, $pid or die "cannot send $signal to $pid: $!\n";
    $self->{stopped}{$pid} = 1 if $signal eq 'STOP';
    delete $self->{stopped}{$pid} if $signal eq 'CONT';
    if ($signal eq 'STOP') {
        $self->wait_for("$pid is stopped", sub { my %s = proc_status($pid); $s{State} =~ /^T/ });
    }
    return $self;
}

# Reloads with these sections changed. Returns when every old worker was asked to shut down.
sub reload {
    my ($self, %changed) = @_;
    $self->write_conf(%changed);
    my @old    = $self->children;
    my $before = length $self->error_log;
    $self->signal('HUP');
    $self->wait_for('the reload', sub {
        my $all = $self->error_log;
        my $log = substr $all, $before;
        die "the reload failed:\n$log" if $log =~ /\[emerg\]/;
        return unless $log =~ /reconfiguring/ && $self->_runs;
        my %gone = map { $_ => 1 } @old;
        delete @gone{ $self->children };
        return !grep { !$gone{$_} && $all !~ / $_#\d+: (?:gracefully shutting down|exiting)/ } @old;
    });
    return $self;
}

# Waits until the processes of all earlier configurations have exited.
sub old_gone {
    my ($self) = @_;
    $self->wait_for('the old workers are gone', sub { !grep { $self->{old}{$_} } $self->children });
    $self->{old} = {};
    return $self;
}

# Waits until another worker has replaced this one. Returns its pid. The last arguments are the pids of the
# workers that still run.
sub successor_of {
    my ($self, $pid, @others) = @_;
    my %old = map { $_ => 1 } $pid, @others;
    return $self->wait_for("the successor of $pid", sub {
        my @workers = $self->workers;
        return if !$self->_runs || grep { $_ == $pid } @workers;
        return (grep { !$old{$_} } @workers)[0];
    });
}

# Calls a function until it returns a true value. Returns this value, or dies if there is none in time.
sub wait_for {
    my ($self, $what, $function) = @_;
    my $deadline = time + $PATIENCE;
    while (1) {
        my $result = $function->();
        return $result if $result;
        die "waited $PATIENCE s in vain: $what\n" if time > $deadline;
        sleep 0.02;
    }
}

# --- logs ---

sub error_log  { return read_file("$_[0]{root}/logs/error.log")  // '' }
sub access_log { return read_file("$_[0]{root}/logs/access.log") // '' }

# Returns nginx's output and the error log.
sub output { return (read_file("$_[0]{root}/logs/output") // '') . $_[0]->error_log }

# --- requests ---

sub connect { return Test::Memstat::Client->new($_[0]->port) }

# Sends one request on its own connection. Options: headers, body.
sub request {
    my ($self, $method, $path, %with) = @_;
    my $headers = [ @{ $with{headers} // [] }, 'Connection: close' ];
    my $client  = $self->connect->send($method, $path, %with, headers => $headers);
    return $client->receive($method);
}

sub get { my ($self, $path, %with) = @_; return $self->request(GET => $path, %with) }

# Repeats a request on new connections until this worker answers it. The body must begin with the
# worker's pid.
sub get_from {
    my ($self, $pid, $path) = @_;
    for (1 .. 1000) {
        my $answer = $self->get($path);
        die "$path: status $answer->{status}\n$answer->{body}" if $answer->{status} != 200;
        return $answer if $answer->{body} =~ /^$pid\b/;
    }
    die "worker $pid answered none of 1000 requests\n";
}

# Returns the decoded answer of a memstat location, after validating it against the schema.
sub memstat {
    my ($self, $path) = @_;
    $path //= '/memstat';
    my $answer = $self->get($path);
    die "$path: status $answer->{status}\n$answer->{body}\n" . $self->output
        if $answer->{status} != 200;
    return $self->decode($answer->{body});
}

# Waits until every snapshot is older than the freshness window, so that the next answer has new ones.
sub expire { sleep $WINDOW; return $_[0] }

# As memstat, but with every snapshot taken after this call.
sub fresh { my ($self, $path) = @_; return $self->expire->memstat($path) }

# Returns the figures of stub_status, which the configuration must have at /status, without the connection
# of this request: a hash with active (connections), writing (requests being answered) and waiting.
sub status {
    my ($self) = @_;
    my %status = map { lc } $self->get('/status')->{body} =~ /(Active|Writing|Waiting)[^:]*: (\d+)/g;
    $status{$_}-- for qw(active writing);
    return \%status;
}

my $validator;
sub decode {
    my ($self, $body) = @_;
    die "no schema at $SCHEMA\n" unless -e $SCHEMA;
    $validator //= JSON::Validator->new->schema("file://$SCHEMA");
    my $reply  = JSON::PP->new->utf8->decode($body);
    my @errors = $validator->validate($reply);
    die join "\n", 'the answer is not valid by the schema:', @errors, $body if @errors;
    return $reply;
}

1;
