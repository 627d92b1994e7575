# One nginx with its own root, port and configuration, started and stopped by a test.
package Test::Memstat::Server;

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use File::Temp;
use IO::Socket::INET;
use JSON::PP;
use JSON::Validator;
use POSIX qw(:sys_wait_h);
use Test::More ();
use Text::ParseWords qw(shellwords);
use Time::HiRes qw(sleep time);

use Test::Memstat::Build ();
use Test::Memstat::Client;
use Test::Memstat::Proc qw(proc_status read_file);

my $REPOSITORY = abs_path(dirname(__FILE__) . '/../../../..');
my $BINARY     = $ENV{TEST_NGINX_BINARY} || 'nginx';
my $MODULE     = abs_path($ENV{TEST_NGINX_MODULE}
        || "$REPOSITORY/objs/ngx_http_memstat_module.so");
# What the stand-in for ngx_stream_lua_module is linked with.
my @STREAM_LUA = ('-Wl,--no-as-needed', '-lluajit-5.1');
my $SCHEMA = "$REPOSITORY/schema/memstat.schema.json";

# A snapshot this young is served again; after this pause an answer has new ones.
my $FRESH_AFTER = 0.06;

# The sections of a configuration: main_config, http_config, config (of the server block). Others:
# module (0: without the module; 'last': loaded after all others), module_copy (1: loaded from a copy
# of its own), lua (0: without ngx_lua), env (NAME=value lines), binary (another nginx than the one that
# is tested), under (a command that nginx is run by), log_level, user_files.
sub new {
    my ($class, %sections) = @_;
    my $root = File::Temp->newdir('memstat-XXXXXX', TMPDIR => 1, CLEANUP => !$ENV{TEST_NGINX_KEEP});
    chmod 0755, $root;
    make_path("$root/logs", "$root/html");
    my $self = bless {
        root => "$root", keep => $root, sections => {%sections},
        ports => [ map { free_port() } 1 .. 3 ], stopped => {}, started_by => $$,
    }, $class;
    $self->_write_files($sections{user_files} // '');
    $self->copy_module if $sections{module_copy};
    $self->write_conf;
    return $self;
}

sub root      { return $_[0]{root} }
sub port      { return $_[0]{ports}[ $_[1] // 0 ] }
sub base      { return 'http://127.0.0.1:' . $_[0]->port }
sub conf_path { return "$_[0]{root}/nginx.conf" }
sub module    { return $MODULE }
sub binary    { return $BINARY }

# Puts a new copy of the module where the server loads it from, if it has one of its own.
sub copy_module {
    my ($self) = @_;
    my $path = $self->{module} = "$self->{root}/memstat.so";
    copy($MODULE, "$path.new") && rename "$path.new", $path or die "cannot copy $MODULE: $!\n";
    return $self;
}

sub free_port {
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)
        or die "no free port: $!\n";
    return $socket->sockport;
}

# --- configuration ---

sub write_conf {
    my ($self, %changed) = @_;
    my $sections = $self->{sections} = { %{ $self->{sections} }, %changed };
    my ($main, $http, $server) =
        map { $self->expand($sections->{$_} // '') } qw(main_config http_config config);
    my @modules = further_modules("$main$http$server", $sections->{lua} // 1);
    push @modules, stream_lua_module() if $main =~ /^\s*stream\s*\{.*_by_lua/ms;
    my $module = $self->{module} // $MODULE;
    my $ours   = $sections->{module} // 'first';
    @modules = $ours eq 'last' ? (@modules, $module) : $ours ? ($module, @modules) : @modules;
    my $load = join '', map { "load_module $_;\n" } @modules;
    my $root   = $self->{root};
    my $level  = $sections->{log_level} // 'info';
    my $temp   = join '', map { "    ${_}_temp_path $root/temp_$_;\n" }
        qw(client_body proxy fastcgi uwsgi scgi);
    my $listen = $self->port;
    my $events = $main =~ /^\s*events\b/m ? '' : "events {\n    worker_connections 512;\n}\n";
    open my $conf, '>', $self->conf_path or die "cannot write " . $self->conf_path . ": $!\n";
    print $conf <<"END";
daemon off;
pid $root/nginx.pid;
error_log $root/logs/error.log $level;
lock_file $root/nginx.lock;
$load
$main
$events
http {
    access_log $root/logs/access.log;
$temp
$http
    server {
        listen 127.0.0.1:$listen;
        server_name localhost;
        root $root/html;
$server
    }
}
END
    close $conf or die "cannot write: $!\n";
    return $self;
}

# $TEST_NGINX_SERVER_PORT, $TEST_NGINX_SERVER_ROOT, $TEST_NGINX_TESTS, $TEST_NGINX_PORT_1, _2, and
# $TEST_NGINX_BUILT_name for the module that t/modules/name.c makes, $TEST_NGINX_LIBRARY_name and
# $TEST_NGINX_PROGRAM_name for what t/tools/name.c makes.
sub expand {
    my ($self, $text) = @_;
    $text =~ s/\$TEST_NGINX_SERVER_PORT\b/$self->port/ge;
    $text =~ s/\$TEST_NGINX_SERVER_ROOT\b/$self->{root}/g;
    $text =~ s/\$TEST_NGINX_TESTS\b/$REPOSITORY\/t/g;
    $text =~ s/\$TEST_NGINX_PORT_([12])\b/$self->port($1)/ge;
    $text =~ s/\$TEST_NGINX_BUILT_(\w+)/Test::Memstat::Build::module($1)/ge;
    $text =~ s/\$TEST_NGINX_LIBRARY_(\w+)/Test::Memstat::Build::library($1)/ge;
    $text =~ s/\$TEST_NGINX_PROGRAM_(\w+)/Test::Memstat::Build::program($1)/ge;
    return $text;
}

# Modules a configuration needs besides ours, found where this nginx keeps its own.
sub further_modules {
    my ($conf, $lua) = @_;
    return split ' ', $ENV{TEST_NGINX_LOAD_MODULES} if defined $ENV{TEST_NGINX_LOAD_MODULES};
    my @names;
    push @names, qw(ndk_http_module ngx_http_lua_module) if $lua && needs_lua($conf);
    push @names, 'ngx_stream_module'
        if $conf =~ /^\s*stream\s*\{/m && nginx_version() =~ /--with-stream=dynamic/;
    return unless @names;
    my ($path) = nginx_version() =~ /--modules-path=(\S+)/
        or die "$BINARY does not say where its modules are\n";
    return map { "$path/$_.so" } @names;
}

sub needs_lua { return $_[0] =~ /\blua_|_by_lua/ }

# The real ngx_stream_lua_module where TEST_NGINX_STREAM_LUA_MODULE says, else the stand-in, unless
# one of them is linked into nginx.
sub stream_lua_module {
    return if nginx_version() =~ /--add-module=\S*stream[_-]lua/;
    return $ENV{TEST_NGINX_STREAM_LUA_MODULE}
        || Test::Memstat::Build::module('ngx_stream_lua_module', @STREAM_LUA);
}

my $nginx_version;
sub nginx_version { return $nginx_version //= `'$BINARY' -V 2>&1` }

# Files below html/: ">>> name" before each.
sub _write_files {
    my ($self, $text) = @_;
    my (undef, @files) = split /^>>> +(\S+)[^\n]*\n/m, $text;
    while (my ($name, $content) = splice @files, 0, 2) {
        my $path = "$self->{root}/html/$name";
        make_path(dirname($path));
        open my $file, '>', $path or die "cannot write $path: $!\n";
        print $file $content;
        close $file or die "cannot write $path: $!\n";
    }
    return;
}

# Whether nginx accepts the configuration, and what it says.
sub check {
    my ($self) = @_;
    my $pid    = $self->_spawn('-t');
    my $status = $self->_reap($pid, 20) // die "nginx -t does not end\n";
    return (!$status, $self->output);
}

# --- life ---

sub _spawn {
    my ($self, @args) = @_;
    die "no module at $MODULE: run make build\n" unless -e $MODULE;
    my $root = $self->{root};
    # What is built for it is known here, too.
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
    my $binary = $self->{sections}{binary} // $BINARY;
    { exec @under, $binary, '-p', "$root/", '-c', $self->conf_path, '-e', "$root/logs/error.log", @args }
    print STDERR "[emerg] cannot run $binary: $!\n";
    POSIX::_exit(127);
}

# The exit status of a child; undef when it still runs after the time given.
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
        my $deadline = time + 15;
        while (1) {
            if (defined $self->_reap($self->{master}, 0)) {
                delete $self->{master};
                last;
            }
            return $self if $self->_runs;
            die "nginx does not start:\n" . $self->output if time > $deadline;
            sleep 0.01;
        }
        # Another process may have taken the port since it was found free.
        die "nginx does not start:\n" . $self->output
            unless $try < 4 && $self->output =~ /Address already in use/;
        unlink "$self->{root}/logs/$_" for qw(error.log output);
        $self->{ports} = [ map { free_port() } 1 .. 3 ];
        $self->write_conf;
    }
}

# All workers are there, or the single process serves.
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

# The processes below a process.
sub descendants {
    my ($pid) = @_;
    return map { ($_, descendants($_)) } Test::Memstat::Proc::children($pid);
}

# Ends nginx and returns what went wrong on the way, a sentence each.
sub stop {
    my ($self) = @_;
    my $master = delete $self->{master} or return;
    my @wrong;
    kill 'CONT', $_ for keys %{ $self->{stopped} };
    my @others = descendants($master);
    my $status;
    for my $step ([ QUIT => 3 ], [ TERM => 5 ], [ KILL => 5 ]) {
        my ($signal, $patience) = @$step;
        kill $signal, $master;
        $status = $self->_reap($master, $patience);
        last if defined $status;
        push @wrong, "nginx did not end after TERM" if $signal eq 'TERM';
    }
    push @wrong, 'nginx ended with status ' . ($status // 'unknown') if !@wrong && $status;
    # A master that replaced the binary lives on by itself, and so do the workers of a killed one.
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

# The pids of the workers, those that shut down not included: by the title of the process, which
# valgrind does not let them set.
sub workers {
    my ($self) = @_;
    my $is_titled = ($self->{sections}{under} // '') !~ /^valgrind\b/;
    # Its children from before it starts workers are others.
    my @children = $is_titled || $self->error_log =~ /start worker process / ? $self->children : ();
    return @children unless $is_titled;
    return grep { (read_file("/proc/$_/cmdline") // '') =~ /^nginx: worker process\0*$/ } @children;
}

sub signal {
    my ($self, $signal, $pid) = @_;
    $pid //= $self->{master};
    kill $signal, $pid or die "cannot send $signal to $pid: $!\n";
    $self->{stopped}{$pid} = 1 if $signal eq 'STOP';
    delete $self->{stopped}{$pid} if $signal eq 'CONT';
    if ($signal eq 'STOP') {
        $self->wait_for("$pid is stopped", 5,
            sub { my %s = proc_status($pid); $s{State} =~ /^T/ });
    }
    return $self;
}

# Reloads with these sections changed; returns when every old worker is told to shut down.
sub reload {
    my ($self, %changed) = @_;
    $self->write_conf(%changed);
    my @old    = $self->children;
    my $before = length $self->error_log;
    $self->signal('HUP');
    $self->wait_for('the reload', 15, sub {
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

# Calls a function until it returns true; returns that. Dies after the time given.
sub wait_for {
    my ($self, $what, $seconds, $function) = @_;
    my $deadline = time + $seconds;
    while (1) {
        my $result = $function->();
        return $result if $result;
        die "waited $seconds s in vain: $what\n" if time > $deadline;
        sleep 0.02;
    }
}

# --- logs ---

sub error_log  { return read_file("$_[0]{root}/logs/error.log")  // '' }
sub access_log { return read_file("$_[0]{root}/logs/access.log") // '' }

# The error log and what nginx printed.
sub output { return (read_file("$_[0]{root}/logs/output") // '') . $_[0]->error_log }

# --- requests ---

sub connect { return Test::Memstat::Client->new($_[0]->port) }

# One request on a connection of its own. Options: headers, body.
sub request {
    my ($self, $method, $path, %with) = @_;
    my $headers = [ @{ $with{headers} // [] }, 'Connection: close' ];
    my $client  = $self->connect->send($method, $path, %with, headers => $headers);
    return $client->receive($method);
}

sub get { my ($self, $path, %with) = @_; return $self->request(GET => $path, %with) }

# Sends the request again, each time on a new connection, until this worker answers it: the body
# must begin with the worker's pid.
sub get_from {
    my ($self, $pid, $path) = @_;
    for (1 .. 300) {
        my $answer = $self->get($path);
        die "$path: status $answer->{status}\n$answer->{body}" if $answer->{status} != 200;
        return $answer if $answer->{body} =~ /^$pid\b/;
    }
    die "worker $pid answered none of 300 requests\n";
}

# The decoded answer of a memstat location, valid by the schema.
sub memstat {
    my ($self, $path) = @_;
    $path //= '/memstat';
    my $answer = $self->get($path);
    die "$path: status $answer->{status}\n$answer->{body}\n" . $self->output
        if $answer->{status} != 200;
    return $self->decode($answer->{body});
}

# The same, with every snapshot taken after this call.
sub fresh {
    my ($self, $path) = @_;
    sleep $FRESH_AFTER;
    return $self->memstat($path);
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
